"""Start the ranks of a run with the launch file that fits the MPI library at hand."""

from __future__ import annotations

import ctypes
import functools
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

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # a run is to end
PR_SET_PDEATHSIG = 1
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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


def start(peers: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `p2psim ARGUMENTS` on `peers` ranks; they end when this process does.

    They have a session of their own: Ctrl-C is for this process, which knows what to do about it.
    """
    command, added = prepare(peers)
    one_thread()
    environment = {
        **os.environ,
        **added,
        "P2PSIM_LAUNCHED": f"{os.getpid()}-{time.time_ns()}",  # no other launch is called that
    }
    stub = [sys.executable, "-I", "-S", str(Path(__file__).with_name("stub.py"))]
    return subprocess.Popen(
        [*command, *stub, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent(),
    )


def end_with_parent() -> Callable[[], object] | None:
    """What a child must do so that it gets SIGTERM when this process dies; Linux alone can."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl and functools.partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM)
