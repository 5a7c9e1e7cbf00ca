"""MPI: whether ranks can be started here and find each other."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from collections.abc import Iterator

from p2psim.errors import InputError
from p2psim.launcher import mpi_libraries, ranks
from p2psim.launcher.doctor.finding import OK, PROBLEM, WARNING, Finding, Plan, ask, last_line

SPEAKS = {"mpich": "pmi2", "openmpi": "pmix"}  # what joins a library's ranks under srun
LAUNCH_SECONDS, SRUN_SECONDS = 60.0, 20.0


def mpiexec() -> Iterator[Finding]:
    """That there is one, and whose."""
    path, _ = ranks.find_mpiexec()
    yield Finding(OK, "mpiexec", f"{mpi_libraries.of_mpiexec(path).title}, {path}")


def mpi4py() -> Iterator[Finding]:
    """Which library it loads, and that this is the one of mpiexec."""
    loaded = mpi_libraries.of_mpi4py()
    said = f"loads {loaded.title}" + f", {loaded.path}" * bool(loaded.path)
    try:
        path, _ = ranks.find_mpiexec()
    except InputError:
        yield Finding(OK, "mpi4py", said)
        return
    starter = mpi_libraries.of_mpiexec(path)
    mpi_libraries.check(f"{path} is", starter, loaded)
    if starter.title == loaded.title:
        yield Finding(OK, "mpi4py", f"{said}, as mpiexec does")
    else:
        cure = f"if the launch below fails, use the mpiexec of {loaded.title}"
        yield Finding(WARNING, "mpi4py", f"{said}, but mpiexec is of {starter.title}: {cure}")


def launch() -> Iterator[Finding]:
    """That two ranks, started as the peers will be, see each other."""
    command, added = ranks.find_launcher().command(2)
    meet = "from p2psim.launcher import mpi_init; mpi_init.init_mpi(2)"
    code, _, errors = ask([*command, sys.executable, "-c", meet], LAUNCH_SECONDS, **added)
    if code == 0:
        yield Finding(OK, "launch", "two ranks were started and see each other")
        return
    yield Finding(
        PROBLEM,
        "launch",
        f"two ranks do not come together (exit code {code}: {last_line(errors)}): try mpiexec -n 2 "
        f"hostname, and edit {command[-1]} for what this site needs (hosts, network, modules)",
    )


def slurm() -> Iterator[Finding]:
    """That srun can join the ranks of this library, where there is Slurm."""
    allocated = "SLURM_JOB_ID" in os.environ
    if shutil.which("srun") is None:
        level = PROBLEM if allocated else OK
        cure = ": load the module of Slurm, or start the job anew" if allocated else ""
        yield Finding(level, "Slurm", f"no srun here{cure}")
        return
    code, out, errors = ask(["srun", "--mpi=list"], SRUN_SECONDS)
    if code:
        cause = f"srun does not work here ({last_line(errors)})"
        cure = ": ask whoever runs this cluster, or start the ranks with mpiexec"
        yield Finding(PROBLEM if allocated else OK, "Slurm", cause + cure * allocated)
        return
    offered = sorted({name.partition("_v")[0] for name in re.findall(r"pmi\w+", out + errors)})
    offers = f"srun offers {', '.join(offered) or 'no PMI'}"
    loaded = mpi_libraries.of_mpi4py()
    needed = SPEAKS.get(loaded.kind, "")
    if not needed or needed in offered:
        yield Finding(OK, "Slurm", f"{offers}; {loaded.title} takes {needed or 'one of them'}")
        return
    cure = f"start the ranks with mpiexec, or use an MPI library that speaks {' or '.join(offered)}"
    yield Finding(
        PROBLEM if allocated else WARNING,
        "Slurm",
        f"{offers}, but {loaded.title} needs {needed}, so that every rank would be alone: {cure}",
    )


def cores(plan: Plan) -> Iterator[Finding]:
    """How many peers share a core. Right in any case, but slower."""
    mine, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    given = [f"{name}={os.environ[name]}" for name in ranks.THREADS if os.environ.get(name)]
    loud = [text for text in given if not text.endswith("=1")]
    threads = f"; {', '.join(loud)} is set, ranks take 1 thread each all the same" if loud else ""
    peers = f" for {plan.here} peers" if plan.here else ""
    if plan.here and mine < min(plan.here, there):
        cure = "ask for more cores, or for no binding to cores, where the shell or job was started"
        text = f"only {mine} of {there} cores may be used{peers}: {cure}{threads}"
        yield Finding(WARNING, "cores", text)
        return
    each = math.ceil((plan.here or 0) / mine)
    share = f", up to {each} on each: slower, and right" if each > 1 else ""
    yield Finding(OK, "cores", f"{mine}{peers}{share}{threads}")
