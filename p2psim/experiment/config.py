"""The experiment file: TOML, checked strictly, turned into plug-in instances.

Every mistake is an InputError that names the dotted key, what was given and what is allowed.
A section is a dataclass; its annotations say what is allowed. Where a section is also a plug-in
(data, model, algorithm), the keys that the section does not know are the plug-in's parameters.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from p2psim import registry
from p2psim.base import (
    KINDS,
    Algorithm,
    Count,
    Data,
    LearningRule,
    LinkModel,
    LocalOptimizer,
    Model,
    Natural,
    NonNegative,
    Partition,
    Positive,
    StepTimeModel,
    Task,
)
from p2psim.errors import InputError, quoted, suggest

Table = dict[str, Any]
LONGEST_NAME = 255  # bytes that a folder's name can have
MOST_ROUNDS = 10**8  # every round has a row, laid out at the start


@dataclass(kw_only=True)
class DataSection:
    """[data] beside the data set's own parameters. Without batch_size: the full local set.

    `classes`: only their samples are used, for training and for tests; labels stay as they are.
    """

    classes: list[Natural] | None = None
    partition: Partition | None = None
    batch_size: Count | None = None


@dataclass(kw_only=True)
class ModelSection:
    """[model] beside the model's own parameters. init: the same first x everywhere, or one each."""

    init: Literal["same", "own"] = "same"
    dtype: Literal["float32", "float64"] = "float32"


@dataclass(kw_only=True)
class Learning:
    """[learning]: T local steps, S consensus steps, l2/2 ||x||^2 added to every loss.

    precision = "int8": gradients as 8-bit arithmetic gives them, simulated (see precision).
    """

    task: Task | None = None
    rule: LearningRule = "bp"  # type: ignore[assignment]
    precision: Literal["fp32", "int8"] = "fp32"
    optimizer: LocalOptimizer = "sgd"  # type: ignore[assignment]
    local_steps: Count = 1
    consensus_steps: Count = 1
    l2: NonNegative = 0.0


@dataclass(kw_only=True)
class Time:
    """[time]: virtual time; left out, it stands still.

    schedule: write down when every peer worked, waited and received. realize: sleep until virtual
    time has passed.
    """

    compute: StepTimeModel | None = None
    # A table without a name means this plug-in: link = { latency = 1e-4 }.
    link: LinkModel = field(default="uniform", metadata={"implied": True})  # type: ignore[assignment]
    schedule: bool = True
    realize: bool = False


@dataclass(kw_only=True)
class Eval:
    """[eval]: every so many rounds and the last, on all test samples or a seeded subset.

    The last is on all samples in any case.
    """

    every: Count = 10
    phases: list[Literal["local", "consensus"]] = field(
        default_factory=lambda: ["local", "consensus"]
    )
    samples: Count | None = None


@dataclass(kw_only=True)
class Execution:
    """[run]: how a run is carried out; none of it changes what comes out, but for the device.

    device: "cuda", "cpu", or "auto", a GPU where there is one. Its results have other bits than
    those of the processor; that is why "cpu" stands here unless a GPU is asked for.
    """

    device: Literal["auto", "cpu", "cuda"] = "cpu"

    checkpoint_minutes: Positive = 10.0
    checkpoint_rounds: Count | None = None
    patience: Annotated[float, msgspec.Meta(ge=1)] = (
        600.0  # seconds in one phase until a peer is taken to hang
    )


@dataclass(kw_only=True)
class Head:
    """The keys above the first section."""

    name: str
    seed: Natural = 1
    peers: Count
    rounds: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROUNDS)] | None = None
    epochs: Positive | None = None


@dataclass(kw_only=True)
class Experiment:
    """A checked experiment. `table` is the resolved file: all defaults filled in."""

    head: Head
    data: Data
    data_section: DataSection
    model: Model
    model_section: ModelSection
    learning: Learning
    algorithm: Algorithm
    topology: Table
    time: Time
    eval: Eval
    run: Execution
    table: Table
    folder: Path


SECTIONS = ("data", "model", "learning", "algorithm", "topology", "time", "eval", "run", "sweep")


def read(path: Path) -> Table:
    """The experiment file as nested tables."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"there is no experiment file {str(path)!r}; give a .toml file") from None
    except (ValueError, RecursionError) as error:  # of the parser, of UTF-8, of long numbers
        raise InputError(f"{str(path)!r} is not valid TOML: {error}") from None
    return {"name": path.stem, **table}


def check(table: Table, folder: Path) -> Experiment:
    """Turn tables into an Experiment; `folder` is what relative paths start from."""
    known = [f.name for f in dataclasses.fields(Head)] + list(SECTIONS)
    for key, value in table.items():
        if key not in known:
            raise InputError(f"unknown key {quoted(key)}; {suggest(key, known)}")
        if key in ("data", "model", "algorithm", "topology") and isinstance(value, str):
            table = {**table, key: {"name": value}}
        elif key in SECTIONS and not isinstance(value, dict):
            raise InputError(f"{key} = {quoted(value)}: write it as a table, [{key}]")
    build = Builder(folder)
    head, resolved = build.fields(Head, {k: table[k] for k in table if k not in SECTIONS}, "")
    if not head["name"].strip(".") or "/" in head["name"] or not head["name"].isprintable():
        raise InputError(
            f"name = {quoted(head['name'])}: give a name without '/' and without line breaks or "
            "other control characters, since the run's folder is called so"
        )
    if len(os.fsencode(head["name"])) > LONGEST_NAME:
        raise InputError(
            f"name = {quoted(head['name'])}: give a name of at most {LONGEST_NAME} bytes, since "
            "the run's folder is called so"
        )
    if (head["rounds"] is None) == (head["epochs"] is None):
        raise InputError("give either rounds or epochs, and not both")
    parts: Table = {}
    for name, section in (("data", DataSection), ("model", ModelSection), ("algorithm", None)):
        parts[name], parts[f"{name}_section"], resolved[name] = build.mixed(name, section, table)
    sections = {"learning": Learning, "time": Time, "eval": Eval, "run": Execution}
    for name, cls in sections.items():
        values, resolved[name] = build.fields(cls, table.get(name, {}), name)
        parts[name] = cls(**values)
    if not parts["eval"].phases:
        raise InputError('eval.phases = []: give "local", "consensus" or both')
    resolved["topology"] = dict(table.get("topology", {}))
    del parts["algorithm_section"]
    return Experiment(
        head=Head(**head), topology=resolved["topology"], table=resolved, folder=folder, **parts
    )


class Builder:
    """Checks values against annotations and builds the plug-ins among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mixed(self, kind: str, section: type | None, table: Table) -> tuple[Any, Any, Table]:
        """A section that is also a plug-in: (plug-in, section, resolved table)."""
        given = table.get(kind, {})
        own = {f.name for f in dataclasses.fields(section)} if section else set()
        part, resolved = None, Table()
        if section:
            values, resolved = self.fields(
                section, {k: v for k, v in given.items() if k in own}, kind
            )
            part = section(**values)
        rest = {k: v for k, v in given.items() if k not in own}
        made, named = self.plugin(kind, rest, kind, own)
        return made, part, {**named, **resolved}

    def plugin(
        self, kind: str, given: Any, path: str, also: Collection[str] = (), usual: Any = None
    ) -> tuple[Any, Table]:
        """Return the plug-in that `given` (name or table) asks for, and its resolved table.

        `usual`: the name of the plug-in that a table without a name stands for, if any. Keys of
        `also` may stand beside the plug-in's own.
        """
        table = {"name": given} if isinstance(given, str) else given
        if usual and isinstance(table, dict):
            table = {"name": usual, **table}
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            allowed = ", ".join(sorted(registry.names(kind)))
            need = 'give a name, or a table with name = "..."'
            raise InputError(f"{path} = {quoted(given)}: {need}; allowed: {allowed}")
        try:
            cls = registry.find(kind, table["name"], self.folder)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        rest = {k: v for k, v in table.items() if k != "name"}
        values, resolved = self.fields(cls, rest, path, also)
        try:
            made = cls(**values)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        return made, {"name": table["name"], **resolved}

    def plugins(self, kind: str, given: Any, path: str) -> tuple[list[Any], list[Table]]:
        """Instances of several plug-ins, at least one."""
        if not isinstance(given, list) or not given:
            raise InputError(
                f"{path} = {quoted(given)}: give a list of names, or of tables with a name"
            )
        made = [self.plugin(kind, part, f"{path}[{k}]") for k, part in enumerate(given)]
        return [part for part, _ in made], [resolved for _, resolved in made]

    def fields(
        self, cls: type, table: Any, path: str, also: Collection[str] = ()
    ) -> tuple[Table, Table]:
        """(values, resolved table) for the fields of a dataclass; `also` may stand beside them."""
        try:
            hints = get_type_hints(cls, include_extras=True)
        except NameError as error:
            raise InputError(f"{path}: an annotation of {cls.__name__} fails: {error}") from None
        known = {f.name: f for f in dataclasses.fields(cls)}
        for key in table:
            if key not in known:
                given = f"{path}.{key}".lstrip(".")
                raise InputError(f"unknown key {quoted(given)}; {suggest(key, [*known, *also])}")
        values, resolved = {}, {}
        for name, spec in known.items():
            where = f"{path}.{name}".lstrip(".")
            value = table[name] if name in table else default(spec, where)
            values[name], plain = self.value(value, hints[name], where, spec)
            if plain is not None:
                resolved[name] = plain
        return values, resolved

    def value(
        self, given: Any, hint: Any, path: str, spec: dataclasses.Field[Any]
    ) -> tuple[Any, Any]:
        """Return the checked value of a key, and its value in the resolved file."""
        options = [a for a in get_args(hint) if a is not type(None)] or [hint]
        if given is None:
            return None, None
        if options[0] in KINDS.values() and get_origin(hint) is list:
            return self.plugins(kind_of(options[0]), given, path)
        if options[0] in KINDS.values():
            usual = spec.default if spec.metadata.get("implied") else None
            return self.plugin(kind_of(options[0]), given, path, usual=usual)
        also = "" if all(map(math.isfinite, numbers(given))) else ", finite"
        try:
            if also:
                raise msgspec.ValidationError
            return msgspec.convert(given, hint), given
        except msgspec.ValidationError:
            raise InputError(f"{path} = {quoted(given)}: give {describe(hint)}{also}") from None


def kind_of(interface: Any) -> str:
    """The kind of plug-in that an annotation stands for."""
    return next(kind for kind, cls in KINDS.items() if cls is interface)


def default(spec: dataclasses.Field[Any], path: str) -> Any:
    """A field's default; InputError where there is none."""
    if spec.default is not MISSING:
        return spec.default
    if spec.default_factory is not MISSING:
        return spec.default_factory()
    raise InputError(f"{path} is missing; add it to the experiment file or give --set {path}=...")


def numbers(value: Any) -> Iterator[float]:
    """All floats inside nested lists and tables."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)


WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
BOUNDS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}"}


def describe(hint: Any) -> str:
    """What an annotation allows, in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [
            text.format(getattr(meta, name))
            for meta in args[1:]
            for name, text in BOUNDS.items()
            if getattr(meta, name, None) not in (None, 2**63 - 1)  # of 64 bits: no use to tell
        ]
        return " ".join([describe(args[0]), " and ".join(limits)]).strip()
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin in (list, tuple):
        return f"a list of entries that are each {describe(args[0])}"
    if args:
        return " or ".join(describe(a) for a in args if a is not type(None))
    return WORDS.get(hint, str(getattr(hint, "__name__", hint)))
