"""Changes to the tables of an experiment file: --set KEY=VALUE, and the combinations of [sweep]."""

from __future__ import annotations

import copy
import itertools
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from p2psim.errors import InputError, quoted
from p2psim.experiment import config
from p2psim.experiment.renaming import rename

Table: TypeAlias = dict[str, Any]
KEY = r"[\w.-]+"  # dotted
UNSAFE = r"[^\w.,=+-]+"  # replaced in the name of a run's folder


def assign(
    table: Table,
    assignments: Sequence[str],
    folder: Path = Path(),
    say: Callable[[str], object] = str,
) -> Table:
    """Apply KEY=VALUE settings to a copy of the tables and return it; VALUE is TOML or a bare word.

    A setting that changes the name of a plug-in keeps the keys that the new one has as well (see
    renaming), and tells the others to `say` in one sentence. Paths are relative to `folder`.
    InputError for a malformed setting, and for a key that [sweep] would overwrite.
    """
    table = copy.deepcopy(table)
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(KEY, key.strip()):
            raise InputError(f"--set {quoted(text)}: give KEY=VALUE with a dotted key")
        if name := overwriting(table, key.strip()):
            raise InputError(
                f"--set {quoted(text)}: [sweep] has values for {name}, which would take its "
                "place: change them there, or choose a combination with --only K"
            )
        if replaced := replace_length(table, [key.strip()]):
            say(f"--set {quoted(text)}: it replaces {replaced}")
        set_key(table, key.strip(), toml_value(value.strip(), text), folder, say)
    return table


def update(table: Mapping[str, Any], settings: Mapping[str, Any]) -> Table:
    """Set dotted keys in a copy of the tables and return it: `assign` for Python values.

    InputError for a malformed key, for a key that [sweep] would overwrite, and for a value that
    TOML does not have.
    """
    copied: Table = toml_like(table)
    replace_length(copied, list(settings))
    for key, value in settings.items():
        if not isinstance(key, str) or not re.fullmatch(KEY, key):
            raise InputError(f"set: {key!r} is no key; give a dotted key such as 'algorithm.gamma'")
        if name := overwriting(copied, key):
            raise InputError(
                f"set: {key!r} is given, but [sweep] has values for {name}, which would take its "
                "place: change them there"
            )
        put(copied, key, toml_like(value, key))
    return copied


def toml_like(value: Any, key: str = "") -> Any:
    """Return a deep copy of a Python value in the types of TOML; InputError if it has none.

    NumPy's numbers and arrays become Python's, tuples become lists, paths become strings. `key` is
    the dotted key of the value, for the message.
    """
    if isinstance(value, Mapping):
        return {str(k): toml_like(v, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [toml_like(entry, key) for entry in value]
    if hasattr(value, "tolist"):  # before the next line: np.float64 is a float
        return toml_like(value.tolist(), key)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bool | int | float | str):
        return value
    raise InputError(
        f"{key} = {value!r}: give a number, a string, true or false, a list or a table; leave the "
        "key out for its default"
    )


def replace_length(table: Table, keys: Sequence[str]) -> str:
    """Remove `rounds` if the keys set `epochs`, and the reverse; return the removed key, or "".

    An experiment has only one of the two. If the keys set both, it is refused later.
    """
    for old, new in (("rounds", "epochs"), ("epochs", "rounds")):
        if new in keys and old not in keys and table.pop(old, None) is not None:
            return old
    return ""


def overwriting(table: Table, key: str) -> str:
    """Return the key of [sweep] whose values would replace a value of `key`; "" for none."""
    names = swept(table.get("sweep", {}))
    return next((name for name in names if f"{key}.".startswith(f"{name}.")), "")


def set_key(table: Table, key: str, value: Any, folder: Path, say: Callable[[str], object]) -> None:
    """Set a dotted key in place, by `rename` if it is the name of a plug-in."""
    where = key.removesuffix(".name")
    removed = rename(table, where, value, folder) if isinstance(value, str) else None
    if removed is None:
        put(table, key, value)
    elif removed:
        keys = ", ".join(f"{where}.{name} = {old!r}" for name, old in removed.items())
        say(f"--set {key}={value}: left out {keys}, which {value!r} does not have")


def swept(sweep: Any) -> Iterator[str]:
    """Yield the dotted keys that a [sweep] sets in at least one combination."""
    for key, values in sweep.items() if isinstance(sweep, dict) else ():
        if isinstance(values, list):
            yield key
        elif isinstance(values, dict):
            cases = (case for case in values.values() if isinstance(case, dict))
            yield from (name for case in cases for name, _ in dotted(case))


def toml_value(text: str, assignment: str) -> Any:
    """Return a TOML value from text; a word without quotes is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        if re.fullmatch(r"[A-Za-z_./][\w./:+-]*", text):
            return text
        raise InputError(
            f"--set {quoted(assignment)}: {quoted(text)} is not a TOML value; put a "
            "string in quotes"
        ) from None


def put(table: Table, key: str, value: Any) -> None:
    """Set a dotted key in place; a plug-in that is a bare name becomes a table {name = ...}."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = table.get(parent, {})
        table[parent] = inner = {"name": inner} if isinstance(inner, str) else inner
        if not isinstance(inner, dict):
            raise InputError(f"{key}: {parent!r} is a value, not a table")
        table = inner
    table[last] = value


def combinations(table: Table) -> list[tuple[str, Table]]:
    """Return (name, tables) of each combination of [sweep]; one combination without a sweep.

    A dotted key with a list takes its values in turn. A table such as [sweep.case] has named cases:
    each case is a table of keys, dotted or nested, and sets all of them. Sections are set first,
    then the keys inside them, whatever the order in [sweep].
    InputError for contradictory or equal combinations.
    """
    table = dict(table)
    sweep = table.pop("sweep", {})
    entries = sweep.items() if isinstance(sweep, dict) else [("", None)]
    tables = []
    for choices in itertools.product(*(options(key, values) for key, values in entries)):
        combination = copy.deepcopy(table)
        keys = [key for _, settings in choices for key in settings]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise InputError(f"[sweep] has several values for {min(twice)} in one combination")
        if "sweep" in (key.partition(".")[0] for key in keys):
            raise InputError("[sweep]: a case holds another sweep; give all cases side by side")
        settings = {key: value for _, chosen in choices for key, value in chosen.items()}
        # A section first: set later, it would replace the keys inside it.
        for key in sorted(settings, key=lambda key: key.count(".")):
            put(combination, key, copy.deepcopy(settings[key]))
        tables.append(("-".join(name for name, _ in choices), combination))
    names = [name for name, _ in tables]
    for name in names:
        if len(os.fsencode(name)) > config.LONGEST_NAME:
            raise InputError(
                f"[sweep]: the combination {quoted(name)} has too long a name for a folder: give "
                "its values as cases with names, as in [sweep.case]"
            )
        if names.count(name) > 1:
            raise InputError(f"[sweep] has the combination {quoted(name)} more than once")
    return tables


def options(key: str, values: Any) -> list[tuple[str, Table]]:
    """Return (name, {dotted key: value}) of each option of one entry of [sweep]."""
    if isinstance(values, list) and values:
        return [(label(key, value), {key: value}) for value in values]
    if isinstance(values, dict) and values and all(isinstance(v, dict) for v in values.values()):
        return [(re.sub(UNSAFE, "_", name), dict(dotted(case))) for name, case in values.items()]
    where = f"sweep.{key} = {quoted(values)}" if key else "sweep"
    raise InputError(
        f'{where}: [sweep] holds lists by dotted key, such as "algorithm.gamma" = [0.1, 0.2], and '
        '[sweep.case] tables by name, such as fast = { "learning.optimizer.lr" = 0.5 }'
    )


def dotted(settings: Table, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of a case; a table with a name is a plug-in, hence a value."""
    for key, value in settings.items():
        if isinstance(value, dict) and "name" not in value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def label(key: str, value: Any) -> str:
    """Return a key's part of the folder name: the last part of the key, and the value."""
    if isinstance(value, dict):
        value = ",".join(str(v) for v in value.values())
    return re.sub(UNSAFE, "_", f"{key.rpartition('.')[2]}={value}")
