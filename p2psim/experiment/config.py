"""Reader of the experiment file: checks the TOML tables and builds the plug-ins that they name.

Every mistake raises an InputError with the dotted key, its value and the allowed values. Each
section is a dataclass whose annotations define the allowed values. The sections data, model and
algorithm also name a plug-in: keys that are not fields of the section are its parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import tomllib
from collections.abc import Collection, Iterator, Sequence
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
LONGEST_NAME = 255  # bytes; file systems limit the name of a folder to this length
MOST_ROUNDS = 10**8  # the records have a row for every round, allocated before the first one


@dataclass(kw_only=True)
class DataSection:
    """Keys of [data] other than the parameters of the data set.

    classes: use only samples of these classes, for training and for tests; labels do not change.
    Without batch_size, a minibatch is the full local data set.
    """

    classes: list[Natural] | None = None
    partition: Partition | None = None
    batch_size: Count | None = None


@dataclass(kw_only=True)
class ModelSection:
    """Keys of [model] other than the parameters of the model.

    init: all peers start from the same x ("same"), or each peer from an x of its own ("own").
    """

    init: Literal["same", "own"] = "same"
    dtype: Literal["float32", "float64"] = "float32"


@dataclass(kw_only=True)
class Learning:
    """Section [learning]: T local steps and S consensus steps per round.

    l2: the term l2/2 ||x||^2 is added to every loss. precision = "int8": gradients are computed
    as 8-bit arithmetic would compute them, by simulation (see learning/int8.py). The inputs of a
    layer are clipped to the mean range of a sample's entries: with few inputs much is lost.
    """

    task: Task | None = None
    rule: LearningRule = "bp"  # type: ignore[assignment]
    precision: Literal["fp32", "int8"] = "fp32"
    # A table without a name gives parameters of the default: optimizer = { lr = 0.01 }.
    optimizer: LocalOptimizer = field(default="sgd", metadata={"implied": True})  # type: ignore[assignment]
    local_steps: Count = 1
    consensus_steps: Count = 1
    l2: NonNegative = 0.0


@dataclass(kw_only=True)
class Time:
    """Section [time]: virtual time, which does not advance if the section is missing.

    schedule: record when every peer computed, waited and received. realize: sleep until the wall
    time has reached the virtual time.
    """

    compute: StepTimeModel | None = None
    # As with the optimizer: link = { latency = 1e-4 }.
    link: LinkModel = field(default="uniform", metadata={"implied": True})  # type: ignore[assignment]
    schedule: bool = True
    realize: bool = False


@dataclass(kw_only=True)
class Eval:
    """Section [eval]: evaluate after every `every` rounds and after the last round.

    samples: size of the seeded subset of the test samples; all samples if it is missing. The last
    evaluation always uses all samples. alignment: at every so many evaluations, compare the
    gradients of the learning rule with those of backpropagation; 0: never.
    """

    every: Count = 10
    phases: list[Literal["local", "consensus"]] = field(
        default_factory=lambda: ["local", "consensus"]
    )
    samples: Count | None = None
    alignment: Annotated[int, msgspec.Meta(ge=0)] = 0


@dataclass(kw_only=True)
class Execution:
    """Section [run]: execution of a run. Only the device changes the results.

    device: "cuda", "cpu", or "auto", which means a GPU if the machine has one. patience: seconds
    in one phase after which a peer is considered to hang. join: most MiB of data that run.h5 itself
    holds at the end of the run; data of a larger run stay in the peers' files. last_checkpoint:
    keep a checkpoint of the last round, from which --resume goes on with more rounds.
    """

    # The default is no GPU, because results of a GPU differ from those of a CPU in their last bits.
    device: Literal["auto", "cpu", "cuda"] = "cpu"

    checkpoint_minutes: Positive = 10.0
    checkpoint_rounds: Count | None = None
    last_checkpoint: bool = False
    patience: Annotated[float, msgspec.Meta(ge=1)] = 600.0
    join: NonNegative = 64.0


@dataclass(kw_only=True)
class Head:
    """Keys of the experiment file that precede the first section."""

    name: str
    seed: Natural = 1
    peers: Count
    rounds: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROUNDS)] | None = None
    epochs: Positive | None = None


@dataclass(kw_only=True)
class Experiment:
    """Checked experiment. `table` is the resolved experiment file, with all defaults."""

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
    settings: Sequence[str] = ()  # values of --set that are in the table


SECTIONS = ("data", "model", "learning", "algorithm", "topology", "time", "eval", "run", "sweep")


def read(path: Path) -> Table:
    """Read an experiment file into nested tables; InputError if it is missing or no valid TOML."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # a mark may precede it
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"there is no experiment file {str(path)!r}; give a .toml file") from None
    except (ValueError, RecursionError) as error:  # of the parser, of UTF-8, of long numbers
        raise InputError(f"{str(path)!r} is not valid TOML: {error}") from None
    return {"name": path.stem, **table}


def check(table: Table, folder: Path) -> Experiment:
    """Build an Experiment from tables; relative paths in them start from `folder`."""
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
        problem = "neither is given" if head["rounds"] is None else "both are given"
        raise InputError(f"give either rounds or epochs, such as rounds = 100: {problem}")
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


@functools.cache
def annotations_of(cls: type) -> dict[str, Any]:
    """Return the evaluated annotations of a class by name; NameError if one has an error."""
    return get_type_hints(cls, include_extras=True)


class Builder:
    """Builder of sections and plug-ins, which checks every value against its annotation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mixed(self, kind: str, section: type | None, table: Table) -> tuple[Any, Any, Table]:
        """Build a section that names a plug-in: return (plug-in, section, resolved table)."""
        entries = table.get(kind, {})
        section_keys = {f.name for f in dataclasses.fields(section)} if section else set()
        section_values, resolved = None, Table()
        if section:
            values, resolved = self.fields(
                section, {k: v for k, v in entries.items() if k in section_keys}, kind
            )
            section_values = section(**values)
        parameters = {k: v for k, v in entries.items() if k not in section_keys}
        plugin, plugin_table = self.plugin(kind, parameters, kind, section_keys)
        return plugin, section_values, {**plugin_table, **resolved}

    def plugin(
        self,
        kind: str,
        value: Any,
        path: str,
        other_keys: Collection[str] = (),
        default_name: Any = None,
    ) -> tuple[Any, Table]:
        """Build the plug-in that `value` (a name or a table) describes; return its table too.

        The returned table is resolved: it contains all defaults. A table without a name describes
        the plug-in `default_name`, if any. `other_keys` are keys of the same section that are no
        parameters; the message for an unknown key may suggest them.
        """
        table = {"name": value} if isinstance(value, str) else value
        if default_name and isinstance(table, dict):
            table = {"name": default_name, **table}
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            allowed = ", ".join(sorted(registry.names(kind)))
            need = 'give a name, or a table with name = "..."'
            state = "is missing" if value == {} else f"= {quoted(value)}"
            raise InputError(f"{path} {state}: {need}; allowed: {allowed}")
        try:
            cls = registry.find(kind, table["name"], self.folder)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        parameters = {k: v for k, v in table.items() if k != "name"}
        values, resolved = self.fields(cls, parameters, path, other_keys)
        try:
            plugin = cls(**values)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        return plugin, {"name": table["name"], **resolved}

    def plugins(self, kind: str, value: Any, path: str) -> tuple[list[Any], list[Table]]:
        """Build the plug-ins of a list; return them and their resolved tables.

        InputError if the list is empty.
        """
        if not isinstance(value, list) or not value:
            raise InputError(
                f"{path} = {quoted(value)}: give a list of names, or of tables with a name"
            )
        pairs = [self.plugin(kind, entry, f"{path}[{k}]") for k, entry in enumerate(value)]
        return [plugin for plugin, _ in pairs], [resolved for _, resolved in pairs]

    def fields(
        self, cls: type, table: Any, path: str, other_keys: Collection[str] = ()
    ) -> tuple[Table, Table]:
        """Check a table against the fields of a dataclass: return (values, resolved table).

        `other_keys`: names that the message for an unknown key may suggest besides the fields.
        """
        try:
            hints = annotations_of(cls)
        except NameError as error:
            raise InputError(f"{path}: an annotation of {cls.__name__} fails: {error}") from None
        known = {f.name: f for f in dataclasses.fields(cls)}
        for key in table:
            if key not in known:
                dotted = f"{path}.{key}".lstrip(".")
                allowed = [*known, *other_keys]
                raise InputError(f"unknown key {quoted(dotted)}; {suggest(key, allowed)}")
        values, resolved = {}, {}
        for name, spec in known.items():
            dotted = f"{path}.{name}".lstrip(".")
            value = table[name] if name in table else default(spec, dotted)
            values[name], entry = self.value(value, hints[name], dotted, spec)
            if entry is not None:  # TOML has no null: a key without a value is left out
                resolved[name] = entry
        return values, resolved

    def value(
        self, value: Any, hint: Any, path: str, spec: dataclasses.Field[Any]
    ) -> tuple[Any, Any]:
        """Check the value of one key: return it, and its entry in the resolved experiment file."""
        options = [a for a in get_args(hint) if a is not type(None)] or [hint]
        if value is None:
            return None, None
        if options[0] in KINDS.values() and get_origin(hint) is list:
            return self.plugins(kind_of(options[0]), value, path)
        if options[0] in KINDS.values():
            default_name = spec.default if spec.metadata.get("implied") else None
            return self.plugin(kind_of(options[0]), value, path, default_name=default_name)
        # TOML allows nan and inf, and msgspec accepts them as floats.
        finite = all(map(math.isfinite, numbers(value)))
        try:
            if not finite:
                raise msgspec.ValidationError
            return msgspec.convert(value, hint), value
        except msgspec.ValidationError:
            limit = "" if finite else ", finite"
            limit += ", at most 2^63 - 1" * (isinstance(value, int) and value > LARGEST)
            raise InputError(f"{path} = {quoted(value)}: give {describe(hint)}{limit}") from None


def kind_of(interface: Any) -> str:
    """Return the kind of plug-in whose interface is this class."""
    return next(kind for kind, cls in KINDS.items() if cls is interface)


def default(spec: dataclasses.Field[Any], path: str) -> Any:
    """Return the default of a field; InputError if it has none."""
    if spec.default is not MISSING:
        return spec.default
    if spec.default_factory is not MISSING:
        return spec.default_factory()
    raise InputError(f"{path} is missing; add it to the experiment file or give --set {path}=...")


def numbers(value: Any) -> Iterator[float]:
    """Yield all floats inside nested lists and tables."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)


WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
LARGEST = 2**63 - 1  # whole number of 64 bits
BOUNDS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}", "min_length": "(>= {} entries)"}


def describe(hint: Any) -> str:
    """Return a phrase for error messages that describes the values an annotation allows."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [
            text.format(getattr(meta, name))
            for meta in args[1:]
            for name, text in BOUNDS.items()
            if getattr(meta, name, None) not in (None, LARGEST)
        ]
        return " ".join([describe(args[0]), " and ".join(limits)]).strip()
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin in (list, tuple):
        size = f"{len(args)} " if origin is tuple and args[-1] is not ... else ""
        return f"a list of {size}entries that are each {describe(args[0])}"
    if args:
        return " or ".join(describe(a) for a in args if a is not type(None))
    return WORDS.get(hint, str(getattr(hint, "__name__", hint)))
