"""Check the experiment files of README.md against the code, and its list of all keys."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from p2psim import registry
from p2psim.base import KINDS
from p2psim.experiment import config, plan, scenario
from p2psim.experiment.sweep import combinations
from p2psim.network import mixing, topology

TEXT = (Path(__file__).parents[2] / "README.md").read_text()
FIRST, *CHANGES, KEYS = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
SECTIONS: dict[str, type] = {
    "": config.Head,
    "data": config.DataSection,
    "model": config.ModelSection,
    "learning": config.Learning,
    "time": config.Time,
    "eval": config.Eval,
    "run": config.Execution,
}


def keys_of(text: str) -> dict[str, set[str]]:
    """Return the keys in each section of a file, also those in comments."""
    keys: dict[str, set[str]] = {"": set()}
    section = ""
    for line in text.splitlines():
        if header := re.match(r"\[([\w.]+)\]", line):
            section = header[1]
            keys[section] = set()
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            keys[section].add(key[1])
    return keys


def test_the_list_of_keys_is_complete() -> None:
    keys = keys_of(KEYS)
    for section, cls in SECTIONS.items():
        fields = {field.name for field in dataclasses.fields(cls)}
        assert keys[section] - {"name"} == fields - {"name"}, section
    assert {section.partition(".")[0] for section in keys} - {""} == set(config.SECTIONS)


def test_the_listed_defaults_are_those_of_the_code() -> None:
    required = ("peers = ...", "rounds = ...", 'name = "..."')
    table: dict[str, Any] = tomllib.loads(
        "\n".join(line for line in KEYS.splitlines() if not line.startswith(required))
    )
    del table["sweep"]
    minimal = {"peers": 2, "rounds": 1, "data": "digits", "model": "linear", "topology": "ring"}
    resolved = scenario.load(
        {"name": "x", "algorithm": "d-psgd", **minimal}, Path()
    ).experiment.table
    for section, entries in table.items():
        for key, value in entries.items() if isinstance(entries, dict) else ():
            default = resolved[section][key]
            if isinstance(value, dict):  # the parameters that the list shows
                assert value.items() <= default.items(), f"{section}.{key}"
            else:
                name = default["name"] if isinstance(default, dict) else default
                assert value == name, f"{section}.{key}"
    assert table["seed"] == resolved["seed"]


def test_the_listed_sweep_is_valid() -> None:
    sweep = tomllib.loads(KEYS[KEYS.index("[sweep]") :])
    assert len(combinations({**tomllib.loads(FIRST), **sweep})) == 4


@pytest.mark.parametrize("change", ["", *CHANGES])
def test_the_experiments_can_be_planned(change: str, tmp_path: Path) -> None:
    table = {**tomllib.loads(FIRST), **tomllib.loads(change)}
    rows = plan.plan(scenario.load(table, tmp_path))
    assert rows["experiment"] == "choco-digits"


@pytest.mark.parametrize("kind", [*KINDS, "topology", "topology.weights"])
def test_the_table_names_every_plug_in(kind: str) -> None:
    tables: dict[str, Collection[str]] = {
        "topology": topology.available(),
        "topology.weights": mixing.RULES,
    }
    names = tables[kind] if kind in tables else registry.names(kind)
    row = "optimizer" if kind == "schedule" else kind
    (line,) = re.findall(rf"^\| `{re.escape(row)}`.*$", TEXT, re.MULTILINE)
    missing = [name for name in names if f"`{name}`" not in line]
    assert not missing, f"README: add {missing} to the row of {kind}"
