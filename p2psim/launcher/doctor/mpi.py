"""Checks of MPI: whether ranks can be started and reach each other."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from collections.abc import Iterator

from p2psim.errors import InputError
from p2psim.launcher import mpi_libraries, ranks
from p2psim.launcher.doctor.finding import (
    OK,
    PROBLEM,
    WARNING,
    Examination,
    Finding,
    last_line,
    run_program,
)

PMI = {"mpich": "pmi2", "openmpi": "pmix"}  # library -> the PMI that it uses under srun
LAUNCH_SECONDS, SRUN_SECONDS = 60.0, 20.0


def mpiexec() -> Iterator[Finding]:
    """Check that an mpiexec exists, and report its library."""
    path, _ = ranks.find_mpiexec()
    yield Finding(OK, "mpiexec", f"{mpi_libraries.of_mpiexec(path).title}, {path}")


def mpi4py() -> Iterator[Finding]:
    """Check that mpi4py loads the library of mpiexec."""
    loaded = mpi_libraries.of_mpi4py()
    text = f"loads {loaded.title}" + f", {loaded.path}" * bool(loaded.path)
    try:
        path, _ = ranks.find_mpiexec()
    except InputError:
        yield Finding(OK, "mpi4py", text)
        return
    starter = mpi_libraries.of_mpiexec(path)
    # An error for two kinds of libraries; two versions of one kind may work together.
    mpi_libraries.check(f"{path} is", starter, loaded)
    if starter.title == loaded.title:
        yield Finding(OK, "mpi4py", f"{text}, as mpiexec does")
    else:
        cure = f"if the launch below fails, use the mpiexec of {loaded.title}"
        yield Finding(WARNING, "mpi4py", f"{text}, but mpiexec belongs to {starter.title}: {cure}")


def launch() -> Iterator[Finding]:
    """Check that two ranks, started as the peers will be, reach each other."""
    command, added = ranks.find_launcher().command(2)
    program = "from p2psim.launcher import mpi_init; mpi_init.init_mpi(2)"
    code, _, errors = run_program(
        [*command, sys.executable, "-c", program], LAUNCH_SECONDS, **added
    )
    if code == 0:
        yield Finding(OK, "launch", "two ranks were started and reach each other")
        return
    yield Finding(
        PROBLEM,
        "launch",
        f"two ranks do not reach each other (exit code {code}: {last_line(errors)}): try mpiexec "
        f"-n 2 hostname, and edit {command[-1]} for what this site needs (hosts, network, modules)",
    )


def slurm() -> Iterator[Finding]:
    """Check that srun, if installed, can join the ranks of the MPI library."""
    allocated = "SLURM_JOB_ID" in os.environ
    if shutil.which("srun") is None:
        level = PROBLEM if allocated else OK
        cure = ": load the Slurm module, or submit the job again" if allocated else ""
        yield Finding(level, "Slurm", f"no srun here{cure}")
        return
    code, out, errors = run_program(["srun", "--mpi=list"], SRUN_SECONDS)
    if code:
        cause = f"srun does not work here ({last_line(errors)})"
        cure = ": ask the administrators of the cluster, or start the ranks with mpiexec"
        yield Finding(PROBLEM if allocated else OK, "Slurm", cause + cure * allocated)
        return
    offered = sorted({name.partition("_v")[0] for name in re.findall(r"pmi\w+", out + errors)})
    offers = f"srun offers {', '.join(offered) or 'no PMI'}"
    loaded = mpi_libraries.of_mpi4py()
    needed = PMI.get(loaded.kind, "")
    if not needed or needed in offered:
        yield Finding(OK, "Slurm", f"{offers}; {loaded.title} uses {needed or 'one of them'}")
        return
    cure = (
        f"start the ranks with mpiexec, or use an MPI library that supports {' or '.join(offered)}"
    )
    yield Finding(
        PROBLEM if allocated else WARNING,
        "Slurm",
        f"{offers}, but {loaded.title} needs {needed}, so that every rank would be alone: {cure}",
    )


def cores(examination: Examination) -> Iterator[Finding]:
    """Report how many peers share a core, which affects only the speed."""
    usable, total = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    settings = [f"{name}={os.environ[name]}" for name in ranks.THREADS if os.environ.get(name)]
    ignored = [text for text in settings if not text.endswith("=1")]
    threads = f"; {', '.join(ignored)} is ignored, each rank uses 1 thread" if ignored else ""
    count = examination.local_peers
    peers = f" for {count} peers" if count else ""
    if count and usable < min(count, total):
        cure = "request more cores, or no binding to cores, for this shell or job"
        text = f"only {usable} of {total} cores may be used{peers}: {cure}{threads}"
        yield Finding(WARNING, "cores", text)
        return
    each = math.ceil((count or 0) / usable)
    share = f", up to {each} on each: slower, with the same results" if each > 1 else ""
    yield Finding(OK, "cores", f"{usable}{peers}{share}{threads}")
