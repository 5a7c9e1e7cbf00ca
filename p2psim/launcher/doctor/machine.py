"""The machine: files, memory, shared memory, and what earlier runs have left there."""

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
from p2psim.launcher.doctor.finding import OK, PROBLEM, WARNING, Finding, Plan, amount

SHARED = Path("/dev/shm")
# Bytes there of a rank, measured as the growth of what `df` shows over 1 to 16 ranks that exchange
# 1 MB messages with all others: MPICH 5.0 with UCX 5.39 MB (with MPIR_CVAR_CH4_NETMOD=ofi 1.06 MB),
# Open MPI 5.0 0.07 to 0.12 MB.
SHARE = {"mpich": 6 * 2**20, "openmpi": 2**19}
LEFT = ("mpich_shm_", "ucx_shm_", "sm_segment.", "vader_segment.")
YOUNG = 60  # seconds
SPARE = 2**30  # bytes of disk, where the run's own need is not known


def files(plan: Plan) -> Iterator[Finding]:
    """That a run's files can be written, mapped into memory, and locked by other readers."""
    folder = next(path for path in (plan.folder, *plan.folder.parents) if path.is_dir())
    here = folder.resolve()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".p2psim-doctor-") as file:
            file.write(bytes(mmap.PAGESIZE))
            file.flush()
            with mmap.mmap(file.fileno(), 0) as mapped:  # as each peer records its rows
                mapped[0] = 1
                mapped.flush()
            locks = lockable(file.fileno())
    except OSError as error:
        cause = f"{here} cannot hold runs ({error.strerror})"
        raise InputError(f"{cause}: give a folder on another file system with --out") from None
    free, need = shutil.disk_usage(folder).free, disk(plan)
    if need > free:
        cause = f"a run takes {amount(need)}, and {here} has {amount(free)} free"
        raise InputError(f"{cause}: free some, or give another folder with --out")
    room = f"{here} can be written, {amount(free)} free"
    if free < max(need, SPARE):
        yield Finding(WARNING, "run folder", f"{room}: little; free some, or give another --out")
    else:
        yield Finding(OK, "run folder", room + (f" for {amount(need)}" if need else ""))
    yield locking(locks)


def lockable(descriptor: int) -> bool:
    """Whether the file can be locked the way HDF5 does it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def locking(locks: bool) -> Finding:
    """p2psim itself locks no file, other programs that open run.h5 do."""
    setting = os.environ.get("HDF5_USE_FILE_LOCKING", "")
    if locks or setting.upper() in ("FALSE", "0", "BEST_EFFORT"):
        return Finding(OK, "file locks", "work" if locks else f"switched off for HDF5 ({setting})")
    cure = "set HDF5_USE_FILE_LOCKING=FALSE before opening run.h5 with other programs (xarray)"
    return Finding(WARNING, "file locks", f"do not work here; p2psim needs none: {cure}")


def disk(plan: Plan) -> int:
    """Bytes of the peers' files, which are written whole at the start."""
    if plan.scenario is None:
        return 0
    import numpy as np

    from p2psim.simulation import recorder

    layout = recorder.layout(plan.scenario).values()
    entries = [math.prod(shape) * np.dtype(kind).itemsize for shape, kind, *_ in layout]
    return int(plan.scenario.peers * sum(entries))


def memory(plan: Plan) -> Iterator[Finding]:
    """That the peers have room."""
    from p2psim.experiment.plan import PROCESS, SHARED, peer_memory

    free = min(available())
    one = PROCESS if plan.scenario is None else peer_memory(plan.scenario)
    room = f"{amount(free)} free"
    if plan.here is None:
        many = max(0, free - SHARED) // one
        yield Finding(OK, "memory", f"{room}: enough for {many:.0f} peers of a small model")
        return
    need = plan.here * one + SHARED
    text = f"{room}, {plan.here} peers of {amount(one)} take {amount(need)} together"
    cure = ": fewer peers a node, or a job with more memory"
    level = PROBLEM if need > free else WARNING if need > 0.8 * free else OK
    yield Finding(level, "memory", text + (cure if level != OK else ""))


def available() -> Iterator[float]:
    """Bytes that may still be taken: of the machine, and under each limit for this process."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    yield int(found[1]) * 1024.0 if found else math.inf
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = Path("/sys/fs/cgroup", controllers)
            folder = top / path.lstrip("/")
            groups = [g for g in (folder, *folder.parents) if g.is_relative_to(top)]
            yield from (left(group) for group in groups)


def left(group: Path) -> float:
    """Bytes below a control group's limit; what is only a cache of files can be taken, too."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max", no limit
            free = int((group / limit).read_text()) - int((group / used).read_text())
            found = re.search(rf"^{cache} (\d+)", (group / "memory.stat").read_text(), re.M)
            return free + float(found[1] if found else 0)
    return math.inf


def shared_memory(plan: Plan) -> Iterator[Finding]:
    """That ranks of one node can talk through it."""
    if not SHARED.is_dir():
        yield Finding(OK, "shared memory", f"no {SHARED} here")
        return
    place, one = os.statvfs(SHARED), share()
    free = place.f_bavail * place.f_frsize
    room = f"{amount(free)} free in {SHARED}"
    if plan.here is None:
        yield Finding(OK, "shared memory", f"{room}: enough for {free // one:,} ranks")
        return
    need = plan.here * one
    cure = ": fewer peers a node, or a larger one (docker run --shm-size, mount -o remount,size=)"
    cure += ", or with MPICH set MPIR_CVAR_CH4_NETMOD=ofi, which needs a fifth"
    text = f"{room}, {plan.here} ranks take about {amount(need)}"
    level = OK if need <= free else PROBLEM
    yield Finding(level, "shared memory", text + (cure if need > free else ""))


def share() -> int:
    """Bytes of a rank under the MPI library at hand."""
    try:
        return SHARE[ranks.find_mpiexec()[1]]
    except InputError:
        return max(SHARE.values())


def leftovers() -> Iterator[Finding]:
    """What runs that were killed have left in shared memory, where no process uses it."""
    mine = [path for path in SHARED.glob("*") if path.name.startswith(LEFT) and settled(path)]
    used = mapped()
    old = [path for path in mine if str(path) not in used]
    if not old:
        yield Finding(OK, "leftovers", f"none of killed runs in {SHARED}")
        return
    size = sum(path.stat().st_blocks * 512 for path in old if path.exists())
    begin = sorted({start for start in LEFT for path in old if path.name.startswith(start)})
    cure = "while no run of yours is running here: rm " + " ".join(f"{SHARED}/{b}*" for b in begin)
    yield Finding(
        WARNING, "leftovers", f"{len(old)} files of killed runs take {amount(size)}; {cure}"
    )


def settled(path: Path) -> bool:
    """Whether it is this user's, and no run that begins just now is about to map it."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and time.time() - found.st_mtime > YOUNG


def mapped() -> set[str]:
    """All files in shared memory that a process of this user has mapped or open."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone
            found |= set(re.findall(rf"{SHARED}/\S+", (process / "maps").read_text()))
            found |= {os.readlink(link) for link in (process / "fd").iterdir()}
    return found
