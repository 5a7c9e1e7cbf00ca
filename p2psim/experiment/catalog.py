"""Catalog of plug-ins for `p2psim list`: parameters and docstrings, read from the classes."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from p2psim import registry
from p2psim.base import KINDS
from p2psim.errors import InputError, suggest
from p2psim.experiment import config
from p2psim.network import topology
from p2psim.network.mixing import RULES

WIDTH = 100


def listing(kind: str | None = None) -> str:
    """Return all plug-ins of a kind, or of every kind, as text. InputError for an unknown kind."""
    kinds = [*KINDS, "topology"]
    if kind is not None and kind not in kinds:
        raise InputError(f"list: unknown kind {kind!r}; {suggest(kind, kinds)}")
    return "\n\n".join("\n".join(section(one)) for one in kinds if kind in (None, one))


def details(kind: str, name: str) -> str:
    """Return one plug-in's parameters and docstring as text. InputError for an unknown one."""
    listing(kind)  # refuses an unknown kind
    if kind == "topology":
        raise InputError(f"list: topology {name!r} has no details of its own; leave the name out")
    cls = registry.find(kind, name, Path())
    head = entry(name, first_line(cls), getattr(cls, "source", ""))
    text = textwrap.indent(inspect.getdoc(cls) or "", "  ").partition("\n")[2]
    return "\n".join([*head, *parameters_of(cls), text])


def section(kind: str) -> Iterator[str]:
    """Yield a heading and the lines of all plug-ins of a kind."""
    yield kind
    if kind == "topology":
        for name, (parameters, summary) in topology.available().items():
            yield from entry(name, summary, "")
            yield from filter(None, [indent(parameters, 6)])
        yield indent(f"Each takes weights = the rule of W: {', '.join(RULES)}.", 2)
        return
    for name, cls in sorted(registry.names(kind).items()):
        yield from entry(name, first_line(cls), getattr(cls, "source", ""))
        yield from parameters_of(cls)


def entry(name: str, summary: str, source: str) -> Iterator[str]:
    """Yield a plug-in's first lines: name and summary, then its source."""
    yield indent(f"{name:<22}{summary}" if len(name) < 22 else f"{name}  {summary}", 2, 24)
    if source:
        yield indent(f"[{source}]", 24, 25)


def parameters_of(cls: type) -> Iterator[str]:
    """Yield a line per parameter: name, default, allowed values."""
    hints = config.annotations_of(cls)
    for field in dataclasses.fields(cls):
        allowed, value = words(hints[field.name]), default(field)
        yield indent(f"{field.name:<18}{value:<18}{allowed}", 6, 42)


def first_line(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


def default(field: dataclasses.Field[Any]) -> str:
    """Return a parameter's default as written in an experiment file."""
    if field.default_factory is not dataclasses.MISSING:
        return toml(field.default_factory())
    if field.default is dataclasses.MISSING:
        return "(required)"
    return "(none)" if field.default is None else toml(field.default)


def toml(value: Any) -> str:
    """Return a value in TOML syntax."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("'", '"') if not isinstance(value, str) else f'"{value}"'


def words(hint: Any) -> str:
    """Return the allowed values of a type hint in words; a plug-in by its kind."""
    for option in (hint, *get_args(hint)):
        if option in KINDS.values():
            prefix = "a list, each " * (get_origin(hint) is list)
            return f"{prefix}a {config.kind_of(option)} (p2psim list {config.kind_of(option)})"
    return config.describe(hint)


def indent(text: str, first: int, rest: int | None = None) -> str:
    """Wrap text at WIDTH, indented by `first` spaces, by `rest` from the second line on."""
    later = " " * (first if rest is None else rest)
    return textwrap.fill(
        text, WIDTH, initial_indent=" " * first, subsequent_indent=later, drop_whitespace=True
    )
