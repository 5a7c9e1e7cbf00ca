"""What can go wrong, and the exit code that each kind ends with (design: commands)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

STOPPED = 4  # exit code of a run that a signal ended


class InputError(Exception):
    """The user's input is wrong: one sentence with what was given, what is allowed, what to do."""

    exit_code = 2
    report_from_any_rank = False  # whether this rank says it although it is not the first


class PeerError(Exception):
    """A peer failed: which one, where and why; `recorded` where its file says so as well."""

    exit_code = 3
    report_from_any_rank = True

    def __init__(self, text: str, recorded: bool = True) -> None:
        super().__init__(text)
        self.recorded = recorded


class StoppedError(Exception):
    """The run was told to stop; a checkpoint from which --resume goes on has been written."""

    exit_code = STOPPED


class AbortedError(Exception):
    """Another peer has said what is wrong; this one ends without a word."""

    exit_code = 2
    report_from_any_rank = False


def suggest(given: str, allowed: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest valid one, and all of them."""
    names = sorted(allowed)
    if not names:
        return "there are none to give here; remove it"
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(names)}"
