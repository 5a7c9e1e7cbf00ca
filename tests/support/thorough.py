"""Cases of a test: those that `make test` runs, and those that only `make test-all` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import pytest

THOROUGH = bool(os.environ.get("THOROUGH"))  # True in `make test-all`

Case = tuple[Any, ...]
Key = Callable[..., Hashable]


def thorough(*case: Any) -> Any:
    """Return a case for pytest.mark.parametrize that only `make test-all` runs."""
    return pytest.param(*case, marks=pytest.mark.thorough)


def covering(cases: list[Case], keys: Iterable[Key]) -> set[int]:
    """Return the indices of few cases that together have every value of every key.

    A key is a function of the parts of a case. In each step the case with the most new values is
    taken, the first one of several.
    """
    values = [{(k, key(*case)) for k, key in enumerate(keys)} for case in cases]
    missing, chosen = set().union(*values), set[int]()
    while missing:
        best = max(range(len(cases)), key=lambda index: len(values[index] & missing))
        chosen.add(best)
        missing -= values[best]
    return chosen


def cover(cases: Iterable[Case], *keys: Key) -> list[Any]:
    """Return the cases for pytest.mark.parametrize, the less important ones marked as thorough.

    `make test` runs cases that have every value of every key; by default the keys are the parts.
    """
    rows = [tuple(case) for case in cases]
    every_part = [lambda *case, part=part: repr(case[part]) for part in range(len(rows[0]))]
    chosen = covering(rows, keys or every_part)
    return [
        pytest.param(*row) if index in chosen else thorough(*row) for index, row in enumerate(rows)
    ]
