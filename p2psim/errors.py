"""Exceptions that end a command, and the exit code of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

STOPPED = 4  # exit code of a run that a signal ended


class InputError(Exception):
    """Wrong user input; the message names the value, the allowed values and the remedy."""

    exit_code = 2
    # Every rank reads the same input and raises the same error, so rank 0 alone reports it.
    report_from_any_rank = False


class PeerError(Exception):
    """Failure of a peer; the message names the peer, the phase and the cause.

    `recorded` is True if the peer's file contains the cause, from which the launcher reports it.
    """

    exit_code = 3
    report_from_any_rank = True

    def __init__(self, text: str, recorded: bool = True) -> None:
        super().__init__(text)
        self.recorded = recorded


class StoppedError(Exception):
    """End of a run on request, after it wrote a checkpoint that --resume continues from.

    `signal` is the number of the signal that requested it, 0 if it was no signal to this process.
    """

    exit_code = STOPPED

    def __init__(self, text: str = "", signal: int = 0) -> None:
        super().__init__(text)
        self.signal = signal


class AbortedError(Exception):
    """End of this peer because another peer failed and reports the error; this peer is silent."""

    exit_code = 2
    report_from_any_rank = False


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return the end of an error message about an unknown `name`: the nearest and all valid ones.

    The result reads "did you mean 'ring'? allowed: grid, ring".
    """
    names = sorted(allowed)
    if not names:
        return "nothing is allowed here; remove it"
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(names)}"
