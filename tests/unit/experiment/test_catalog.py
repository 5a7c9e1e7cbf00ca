"""`p2psim list`: complete, in the words of the classes, and quick to refuse."""

from __future__ import annotations

import dataclasses

import pytest

from p2psim import registry
from p2psim.base import KINDS, Compressor, Count
from p2psim.errors import InputError
from p2psim.experiment import catalog
from p2psim.network import topology
from tests.support.programs import invoke

PLUGINS = [(kind, name) for kind in KINDS for name in registry.names(kind)]


def block(text: str, name: str) -> str:
    """The lines of one plug-in, folded ones joined."""
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if line.split()[:1] == [name])
    rest = [k for k in range(start + 1, len(lines)) if lines[k][2:3].strip()]
    return " ".join(" ".join(lines[start : min(rest, default=len(lines))]).split())


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_plugin_with_every_parameter(kind: str, name: str) -> None:
    cls = registry.names(kind)[name]
    text = block(catalog.listing(kind), name)
    assert " ".join(catalog.first_line(cls).split()) in text
    assert " ".join(cls.source.split()) in text  # type: ignore[attr-defined]
    for field in dataclasses.fields(cls):
        required = field.default is field.default_factory is dataclasses.MISSING
        assert f" {field.name} {'(required)' if required else catalog.default(field)} " in text


@pytest.mark.parametrize("name", topology.available())
def test_every_topology(name: str) -> None:
    parameters, summary = topology.available()[name]
    text = block(catalog.listing("topology"), name)
    assert summary in text
    assert parameters in text


def test_all_kinds_are_listed_without_one() -> None:
    text = catalog.listing()
    heads = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert heads == [*KINDS, "topology"]
    assert all(catalog.listing(kind) in text for kind in heads)
    assert max(map(len, text.splitlines())) <= catalog.WIDTH


def test_known_entries_by_hand() -> None:
    text = block(catalog.listing("algorithm"), "choco-sgd")
    assert "[Koloskova, Stich & Jaggi 2019, Algorithm 2" in text
    assert "variant \"fresh\" 'fresh' or 'stale'" in text
    assert 'compressor "identity" a compressor (p2psim list compressor)' in text
    assert "keep (none) a number > 0 and <= 1" in block(catalog.listing("compressor"), "top-k")
    assert "hidden [200, 200] a list" in block(catalog.listing("model"), "mlp")


def test_words_and_defaults() -> None:
    assert catalog.words(Count | None) == "a whole number >= 1"
    assert catalog.words(Compressor | None) == "a compressor (p2psim list compressor)"
    assert [catalog.toml(value) for value in (True, 0.5, "a", ["b", 1])] == [
        "true", "0.5", '"a"', '["b", 1]',
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_all_about_one_plug_in(kind: str, name: str) -> None:
    cls = registry.names(kind)[name]
    text = catalog.details(kind, name)
    for line in (cls.__doc__ or "").strip().splitlines()[1:]:
        assert line.strip() in text
    assert all(f" {field.name} " in text for field in dataclasses.fields(cls))


def test_what_has_no_more_to_tell() -> None:
    for kind, name, text in (
        ("algorithm", "p2pll", "unknown algorithm 'p2pll'"),
        ("nothing", "p2pl", "unknown kind"),
        ("topology", "ring", "leave the name out"),
    ):
        with pytest.raises(InputError, match=text):
            catalog.details(kind, name)


def test_command() -> None:
    outcome = invoke("list", "topology")
    assert outcome.exit_code == 0
    assert outcome.output == catalog.listing("topology") + "\n"
    outcome = invoke("list", "algorithm", "p2pl")
    assert outcome.output == catalog.details("algorithm", "p2pl") + "\n"
    outcome = invoke("list", "algoritm")
    assert outcome.exit_code == 2
    assert "did you mean 'algorithm'?" in outcome.output
    with pytest.raises(InputError, match="topology"):
        catalog.listing("")
