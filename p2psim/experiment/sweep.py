"""Changing what an experiment file says: --set KEY=VALUE, and the combinations of [sweep]."""

from __future__ import annotations

import copy
import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from p2psim.errors import InputError

Table: TypeAlias = dict[str, Any]
UNSAFE = r"[^\w.,=+-]+"  # in the name of a run's folder


def assign(table: Table, assignments: Sequence[str]) -> Table:
    """Apply KEY=VALUE settings to a copy of the tables; VALUE is TOML, or a bare word."""
    table = copy.deepcopy(table)
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[\w.-]+", key.strip()):
            raise InputError(f"--set {text!r}: give KEY=VALUE with a dotted key")
        sweep = table.get("sweep", {})
        for name in swept(sweep):
            if f"{key.strip()}.".startswith(f"{name}."):
                raise InputError(
                    f"--set {text!r}: [sweep] has values for {name}, which would take its place: "
                    "change them there, or choose a combination with --only K"
                )
        put(table, key.strip(), toml_value(value.strip(), text))
    return table


def swept(sweep: Any) -> Iterator[str]:
    """The dotted keys that a [sweep] sets, in some combination at least."""
    for key, given in sweep.items() if isinstance(sweep, dict) else ():
        if isinstance(given, list):
            yield key
        elif isinstance(given, dict):
            cases = (case for case in given.values() if isinstance(case, dict))
            yield from (name for case in cases for name, _ in dotted(case))


def toml_value(text: str, given: str) -> Any:
    """One TOML value; a word without quotes is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if re.fullmatch(r"[A-Za-z_./][\w./:+-]*", text):
            return text
        raise InputError(f"--set {given!r}: {text!r} is not a TOML value") from None


def put(table: Table, key: str, value: Any) -> None:
    """Set a dotted key; a plug-in given by name alone becomes a table on the way."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = table.get(parent, {})
        table[parent] = inner = {"name": inner} if isinstance(inner, str) else inner
        if not isinstance(inner, dict):
            raise InputError(f"{key}: {parent!r} is a value, not a table")
        table = inner
    table[last] = value


def combinations(table: Table) -> list[tuple[str, Table]]:
    """[sweep]: one (name, tables) per combination; a single one where there is no sweep.

    A key with a list takes its values in turn. [sweep.case], or under any other name, holds cases
    by name: each is a table of keys, dotted or nested, all of which it sets, sections first.
    """
    table = dict(table)
    sweep = table.pop("sweep", {})
    entries = sweep.items() if isinstance(sweep, dict) else [("", None)]
    made = []
    for choices in itertools.product(*(options(key, given) for key, given in entries)):
        one = copy.deepcopy(table)
        given = [key for _, settings in choices for key in settings]
        if twice := {key for key in given if given.count(key) > 1}:
            raise InputError(f"[sweep] has several values for {min(twice)} in one combination")
        if "sweep" in (key.partition(".")[0] for key in given):
            raise InputError("[sweep]: a case holds another sweep; give all cases side by side")
        for _, settings in choices:
            for key in sorted(settings, key=lambda key: key.count(".")):
                put(one, key, copy.deepcopy(settings[key]))
        made.append(("-".join(name for name, _ in choices), one))
    names = [name for name, _ in made]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"[sweep] has the combination {name!r} more than once")
    return made


def options(key: str, given: Any) -> list[tuple[str, Table]]:
    """What one entry of [sweep] may be: (name, dotted keys to set) of each option."""
    if isinstance(given, list) and given:
        return [(label(key, value), {key: value}) for value in given]
    if isinstance(given, dict) and given and all(isinstance(v, dict) for v in given.values()):
        return [(re.sub(UNSAFE, "_", name), dict(dotted(case))) for name, case in given.items()]
    where = f"sweep.{key}" if key else "sweep"
    raise InputError(
        f'{where}: [sweep] holds lists by dotted key, such as "algorithm.gamma" = [0.1, 0.2], and '
        '[sweep.case] tables by name, such as fast = { "learning.optimizer.lr" = 0.5 }'
    )


def dotted(settings: Table, above: str = "") -> Iterator[tuple[str, Any]]:
    """A case's keys in dotted form; a table with a name is a plug-in, and so a value."""
    for key, value in settings.items():
        if isinstance(value, dict) and "name" not in value:
            yield from dotted(value, f"{above}{key}.")
        else:
            yield above + key, value


def label(key: str, value: Any) -> str:
    """A combination's part of the folder name: last part of the key and the value."""
    if isinstance(value, dict):
        value = ",".join(str(v) for v in value.values())
    return re.sub(UNSAFE, "_", f"{key.rpartition('.')[2]}={value}")
