"""How a death is written down: a rank leaves word where its file is, whoever outlives it writes.

The descriptor in P2PSIM_WILL is an unnamed file that a rank shares with its stub and with the fork
server. What the rank writes there they can read when it has been killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from p2psim.simulation import recorder

MOST = 4096  # bytes


def leave(path: Path) -> None:
    """Say where this peer's file is, if somebody is there to be told."""
    if "P2PSIM_WILL" in os.environ:
        os.pwrite(int(os.environ["P2PSIM_WILL"]), os.fsencode(path.resolve()), 0)


def revoke() -> None:
    """This peer has ended in order, or has said itself why not."""
    if "P2PSIM_WILL" in os.environ:
        os.ftruncate(int(os.environ["P2PSIM_WILL"]), 0)


def execute(will: int, cause: str) -> None:
    """Write into the peer's file, if it had one, how it died."""
    left = os.fsdecode(os.pread(will, MOST, 0))
    if left:
        recorder.obituary(Path(left), cause)


def cause_of(status: int) -> str:
    """What a wait status means, in words."""
    if not os.WIFSIGNALED(status):
        return f"ended with exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    return f"was killed by signal {number} ({signal.Signals(number).name})"


if __name__ == "__main__":
    execute(int(sys.argv[1]), cause_of(int(sys.argv[2])))
