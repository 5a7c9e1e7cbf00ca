"""Start the ranks of a run with the launch file that fits the MPI library at hand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from p2psim.errors import InputError
from p2psim.launcher import libraries

RANK_VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
INTERRUPTED = 130
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def inside() -> tuple[int, int] | None:
    """(rank, size) where this process was started by mpiexec, else None."""
    for rank, size in RANK_VARIABLES:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return None


def hold_back(limit: float = 5.0) -> None:
    """Let the first rank speak: Open MPI and Slurm end all ranks once one has left with an error.

    Hydra does not, and waits for each.
    """
    if libraries.STARTERS["MPICH"] not in os.environ:
        time.sleep(limit)


def one_thread() -> None:
    """Ranks share the cores: one thread each, set before the libraries start theirs."""
    for name in THREADS:
        os.environ[name] = "1"


def launch_folder() -> Path:
    """The folder of launch files: beside the package, else where it was installed."""
    beside = Path(__file__).resolve().parents[2] / "launch"
    return beside if beside.is_dir() else Path(sys.prefix) / "share" / "p2psim" / "launch"


def find_mpiexec() -> tuple[str, str]:
    """(path of mpiexec, name of the launch file for it). This environment's own comes first."""
    path = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if path is None:
        raise InputError(f"no mpiexec found: {libraries.INSTALL}, or run with --debug")
    kind = libraries.of_mpiexec(path).kind
    if kind:
        return path, kind
    raise InputError(
        f"{path} belongs to an MPI library that no launch file of {launch_folder()} fits: "
        "start the ranks yourself with mpiexec -n N p2psim run ..."
    )


def check_library() -> None:
    """InputError where mpiexec belongs to another MPI library than the one that mpi4py loads."""
    mpiexec, _ = find_mpiexec()
    starter = libraries.of_mpiexec(mpiexec)
    libraries.check(f"{mpiexec} is", starter, libraries.of_mpi4py())


def prepare(peers: int) -> tuple[list[str], dict[str, str]]:
    """What stands before the command of each rank, and what that needs in its environment."""
    mpiexec, name = find_mpiexec()
    command = ["/bin/sh", str(launch_folder() / f"{name}.sh")]
    return command, {"P2PSIM_MPIEXEC": mpiexec, "P2PSIM_PEERS": str(peers)}


def start(peers: int, arguments: Sequence[str], watch: Callable[[], None]) -> int:
    """Run `p2psim ARGUMENTS` on `peers` ranks; `watch` is called again and again meanwhile.

    Returns the exit code of mpiexec, INTERRUPTED where the user stopped it.
    """
    command, added = prepare(peers)
    one_thread()
    environment = {**os.environ, **added, "P2PSIM_LAUNCHED": "1"}
    command += [sys.executable, "-m", "p2psim", *arguments]
    # A handler that only takes note: an exception raised inside `watch` might get lost there.
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    while process.poll() is None and not asked:
        watch()
    if not asked:
        return process.returncode
    # A terminal sends the signal to mpiexec as well; either way it ends the ranks.
    process.terminate()
    process.wait(timeout=30)
    return INTERRUPTED
