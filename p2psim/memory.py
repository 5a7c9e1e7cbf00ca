"""Memory of this machine, and refusal of input that would need more than it has.

Without this check a giant number in an experiment file or in the header of a data file ends in
a kill by the system, or takes hours, before any message.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
from pathlib import Path

from p2psim.errors import InputError

CGROUP = Path("/sys/fs/cgroup/memory.max")  # limit of a container or of a Slurm job


@functools.cache
def physical() -> int:
    """Return the bytes of memory that this machine, or the container around it, has."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max" if there is no limit
        size = min(size, int(CGROUP.read_text()))
    return size


def available() -> int:
    """Return the bytes that this process may allocate, by the machine and by `ulimit -v`."""
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft == resource.RLIM_INFINITY:
        return physical()
    return min(physical(), max(0, soft - addresses()))


def addresses() -> int:
    """Return the bytes of addresses that this process uses, which `ulimit -v` limits."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def check(needed: int, subject: str, cure: str) -> None:
    """Check that `needed` bytes are available.

    InputError otherwise; its message begins with `subject` and ends with the advice `cure`.
    """
    if needed > available():
        raise InputError(
            f"{subject} would take {needed / 2**30:,.1f} GiB of memory, more than the "
            f"{available() / 2**30:,.1f} GiB of this machine; {cure}"
        )
