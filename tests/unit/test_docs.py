"""Run the example of docs/own-problem.md as printed there, in files outside the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim.errors import InputError
from tests.support.runs import run_in_threads

TEXT = (Path(__file__).parents[2] / "docs" / "own-problem.md").read_text()
FILES: dict[str, str] = dict(
    re.findall(r"^```\w+\n# (\w+\.\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
)


def table_in(folder: Path, **files: str) -> dict[str, Any]:
    """Write all files, `files` in place of some, and return the tables of the experiment."""
    for name, content in {**FILES, **files}.items():
        (folder / name).write_text(content)
    table: dict[str, Any] = tomllib.loads(FILES["own.toml"])
    return table


def test_the_page_has_a_file_for_each_part() -> None:
    assert set(FILES) == {"rings.py", "two_points.py", "brier.py", "own.toml"}


@pytest.mark.parametrize("rule", ["dfa", "bp"])
def test_four_peers_learn(rule: str, tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table["learning"]["rule"] = rule
    run = run_in_threads(table, tmp_path)
    assert run.eval["brier"].shape[0] == 4
    # Equal probabilities for three classes have a score of 2/3.
    assert np.mean(run.eval["brier"][:, -1]) < 0.15
    assert np.abs(run.eval["mean_model_brier"][:, -1]).max() < 0.15


@pytest.mark.parametrize(
    ("name", "right", "wrong", "message"),
    [
        ("two_points.py", "FeedbackPoint()]", "FeedbackPoint]", r"write FeedbackPoint\(\)"),
        ("rings.py", "shape = (2,)", "shape = (3,)", r"have the shape \(2,\), but shape = \(3,\)"),
    ],
)
def test_a_mistake_in_a_file_is_named(
    name: str, right: str, wrong: str, message: str, tmp_path: Path
) -> None:
    assert right in FILES[name]
    table = table_in(tmp_path, **{name: FILES[name].replace(right, wrong)})
    with pytest.raises(InputError, match=message):
        run_in_threads(table, tmp_path)


def test_a_model_without_points_is_refused_with_the_cure(tmp_path: Path) -> None:
    without = FILES["two_points.py"].replace(", FeedbackPoint()]", "]")
    table = table_in(tmp_path, **{"two_points.py": without})
    with pytest.raises(InputError, match="the model has no feedback point; choose another"):
        run_in_threads(table, tmp_path)
