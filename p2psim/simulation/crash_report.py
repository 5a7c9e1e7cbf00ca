"""Crash reports: a rank registers its result file; after a crash another process writes the cause.

P2PSIM_CRASH_FD is the descriptor of an unnamed file that a rank shares with its stub and with the
fork server. The rank writes the path of its result file into it; if the rank is killed, the stub or
the fork server reads this path and writes the cause into the result file.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from p2psim.simulation import run_file

LONGEST_PATH = 4096  # bytes


def register(path: Path) -> None:
    """Register the result file of this peer, if a stub or a fork server shares the descriptor."""
    if "P2PSIM_CRASH_FD" in os.environ:
        os.pwrite(int(os.environ["P2PSIM_CRASH_FD"]), os.fsencode(path.resolve()), 0)


def unregister() -> None:
    """Withdraw the registration: this peer ends normally, or has recorded its failure itself."""
    if "P2PSIM_CRASH_FD" in os.environ:
        os.ftruncate(int(os.environ["P2PSIM_CRASH_FD"]), 0)


def write(crash_file: int, cause: str) -> None:
    """Write the cause of a crash into the result file that the peer has registered, if any."""
    path = os.fsdecode(os.pread(crash_file, LONGEST_PATH, 0))
    if path:
        run_file.record_crash(Path(path), cause)


def cause_of(status: int) -> str:
    """Return the meaning of a wait status as the predicate of a sentence, as in "was killed by"."""
    if not os.WIFSIGNALED(status):
        return f"ended with exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    return f"was killed by signal {number} ({signal.Signals(number).name})"


if __name__ == "__main__":
    write(int(sys.argv[1]), cause_of(int(sys.argv[2])))
