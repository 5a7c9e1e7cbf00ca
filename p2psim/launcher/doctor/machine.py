"""Checks of the machine: files, memory, shared memory and leftovers of killed runs."""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from p2psim.errors import InputError
from p2psim.launcher import ranks
from p2psim.launcher.doctor.finding import OK, PROBLEM, WARNING, Examination, Finding, format_bytes

SHARED = Path("/dev/shm")
# Bytes in SHARED per rank, measured as the growth of `df` over 1 to 16 ranks that exchange
# 1 MB messages with all others: MPICH 5.0 with UCX 5.39 MB (with MPIR_CVAR_CH4_NETMOD=ofi 1.06 MB),
# Open MPI 5.0 0.07 to 0.12 MB.
SHARE = {"mpich": 6 * 2**20, "openmpi": 2**19}
PREFIXES = ("mpich_shm_", "ucx_shm_", "sm_segment.", "vader_segment.")
YOUNG = 60  # seconds in which a starting run may not have mapped its file yet
SPARE = 2**30  # bytes of free disk below which a warning is given


def files(examination: Examination) -> Iterator[Finding]:
    """Check that files of a run can be written, mapped into memory and locked by other programs."""
    folder = examination.folder
    folder = next(path for path in (folder, *folder.parents) if path.is_dir())
    resolved = folder.resolve()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".p2psim-doctor-") as file:
            file.write(bytes(mmap.PAGESIZE))
            file.flush()
            with mmap.mmap(file.fileno(), 0) as memory:  # each peer records its rows in this way
                memory[0] = 1
                memory.flush()
            locks = lockable(file.fileno())
    except OSError as error:
        cause = f"{resolved} cannot hold runs ({error.strerror})"
        raise InputError(f"{cause}: give a folder on another file system with --out") from None
    free, need = shutil.disk_usage(folder).free, disk(examination)
    if need > free:
        cause = f"a run takes {format_bytes(need)}, and {resolved} has {format_bytes(free)} free"
        raise InputError(f"{cause}: free some space, or give another folder with --out")
    room = f"{resolved} can be written, {format_bytes(free)} free"
    if free < max(need, SPARE):
        yield Finding(
            WARNING,
            "run folder",
            f"{room}, which is little: free some space, or give another folder with --out",
        )
    else:
        yield Finding(OK, "run folder", room + (f" for {format_bytes(need)}" if need else ""))
    yield locking(locks)


def lockable(descriptor: int) -> bool:
    """Return True if the file can be locked in the way of HDF5."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def locking(locks: bool) -> Finding:
    """Return the finding about locks, which p2psim does not use, but other readers of run.h5 do."""
    setting = os.environ.get("HDF5_USE_FILE_LOCKING", "")
    if locks or setting.upper() in ("FALSE", "0", "BEST_EFFORT"):
        return Finding(OK, "file locks", "work" if locks else f"switched off for HDF5 ({setting})")
    cure = "set HDF5_USE_FILE_LOCKING=FALSE before opening run.h5 with other programs (xarray)"
    return Finding(WARNING, "file locks", f"do not work here, but p2psim does not use them: {cure}")


def disk(examination: Examination) -> int:
    """Return the bytes of all peers' files, and of run.h5 if it will hold the same data."""
    if examination.scenario is None:
        return 0
    from p2psim.simulation import run_format

    layout = run_format.layout(examination.scenario).values()
    one = run_format.data_bytes((shape, kind) for shape, kind, *_ in layout)
    peers = int(examination.scenario.peers * one)
    return 2 * peers if peers <= examination.scenario.experiment.run.join * 2**20 else peers


def memory(examination: Examination) -> Iterator[Finding]:
    """Check that the memory is sufficient for the peers."""
    from p2psim.experiment.plan import PROCESS, SHARED, peer_memory

    free = min(available())
    one = PROCESS if examination.scenario is None else peer_memory(examination.scenario)
    room = f"{format_bytes(free)} free"
    if examination.local_peers is None:
        many = max(0, free - SHARED) // one
        yield Finding(OK, "memory", f"{room}: enough for {many:.0f} peers of a small model")
        return
    need = examination.local_peers * one + SHARED
    text = f"{room}, {examination.local_peers} peers take {format_bytes(need)} together"
    text += f", {format_bytes(one)} each"
    cure = ": use fewer peers per node, or a job with more memory"
    level = PROBLEM if need > free else WARNING if need > 0.8 * free else OK
    yield Finding(level, "memory", text + (cure if level != OK else ""))


def available() -> Iterator[float]:
    """Yield the available bytes of the machine and of each control group of this process."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    yield int(match[1]) * 1024.0 if match else math.inf
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = Path("/sys/fs/cgroup", controllers)
            folder = top / path.lstrip("/")
            groups = [g for g in (folder, *folder.parents) if g.is_relative_to(top)]
            yield from (group_limit(group) for group in groups)


def group_limit(group: Path) -> float:
    """Return the available bytes below a control group's limit, including its file cache.

    Infinity if the group has no limit. Supports versions 2 and 1 of control groups.
    """
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max", no limit
            free = int((group / limit).read_text()) - int((group / used).read_text())
            match = re.search(rf"^{cache} (\d+)", (group / "memory.stat").read_text(), re.M)
            return free + float(match[1] if match else 0)
    return math.inf


def shared_memory(examination: Examination) -> Iterator[Finding]:
    """Check that shared memory is sufficient for the ranks of this node."""
    if not SHARED.is_dir():
        yield Finding(OK, "shared memory", f"no {SHARED} here")
        return
    system, one = os.statvfs(SHARED), bytes_per_rank()
    free = system.f_bavail * system.f_frsize
    room = f"{format_bytes(free)} free in {SHARED}"
    if examination.local_peers is None:
        yield Finding(OK, "shared memory", f"{room}: enough for {free // one:,} ranks")
        return
    need = examination.local_peers * one
    cure = ": use fewer peers per node, or enlarge it (docker run --shm-size, mount -o remount,"
    cure += "size=), or with MPICH set MPIR_CVAR_CH4_NETMOD=ofi, which takes a fifth"
    text = f"{room}, {examination.local_peers} ranks take about {format_bytes(need)}"
    level = OK if need <= free else PROBLEM
    yield Finding(level, "shared memory", text + (cure if need > free else ""))


def bytes_per_rank() -> int:
    """Return the bytes of shared memory that a rank of the installed MPI library takes."""
    try:
        return SHARE[ranks.find_mpiexec()[1]]
    except InputError:
        return max(SHARE.values())


def leftovers() -> Iterator[Finding]:
    """Find files of killed runs in shared memory that no process uses."""
    files = [path for path in SHARED.glob("*") if path.name.startswith(PREFIXES) and is_old(path)]
    used = files_in_use()
    old = [path for path in files if str(path) not in used]
    if not old:
        yield Finding(OK, "leftovers", f"no files of killed runs in {SHARED}")
        return
    size = sum(path.stat().st_blocks * 512 for path in old if path.exists())
    prefixes = sorted({start for start in PREFIXES for path in old if path.name.startswith(start)})
    patterns = " ".join(f"{SHARED}/{prefix}*" for prefix in prefixes)
    cure = f"while none of your runs uses this machine: rm {patterns}"
    yield Finding(
        WARNING, "leftovers", f"{len(old)} files of killed runs take {format_bytes(size)}; {cure}"
    )


def is_old(path: Path) -> bool:
    """Return True if the file is this user's and older than YOUNG seconds."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and time.time() - status.st_mtime > YOUNG


def files_in_use() -> set[str]:
    """Return all files in shared memory that a process of this user has mapped or open."""
    names: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process is another user's, or has ended
            names |= set(re.findall(rf"{SHARED}/\S+", (process / "maps").read_text()))
            names |= {os.readlink(link) for link in (process / "fd").iterdir()}
    return names
