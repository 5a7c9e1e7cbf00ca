"""CPU time and memory of all processes of a run, read from /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def members(launcher: int) -> list[int]:
    """Return the pids of the process `launcher` and of all processes of the run that it started.

    They are recognized by the launcher's mark in their environment: the fork server, which forks
    the ranks, is no child of the launcher.
    """
    mark = f"P2PSIM_LAUNCHED={launcher}-".encode()
    pids = [launcher]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's process, or one that has just ended
            if mark in (folder / "environ").read_bytes():
                pids.append(int(folder.name))
    return pids


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process and of its children that have ended; 0 if it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICKS
    return 0.0


def memory(pid: int) -> float:
    """Return the memory of a process in GB; 0 if it is gone.

    Pages that several processes share are divided among them, so that sums over a run are right.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e9
    return 0.0
