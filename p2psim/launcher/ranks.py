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
from p2psim.launcher import slurm

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # a run is to end
PR_SET_PDEATHSIG = 1
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def one_thread() -> None:
    """Ranks share the cores: one thread each, set before the libraries start theirs."""
    for name in THREADS:
        os.environ[name] = "1"


def launch_folder() -> Path:
    """The folder of launch files: beside the package, else where it was installed."""
    beside = Path(__file__).resolve().parents[2] / "launch"
    return beside if beside.is_dir() else Path(sys.prefix) / "share" / "p2psim" / "launch"


def find_launch() -> tuple[str, dict[str, str]]:
    """(name of the launch file that fits this place, what else it finds in its environment)."""
    if slurm.at_hand():
        return "slurm", {"P2PSIM_PMI": slurm.flavor(launch_folder() / "slurm.sh")}
    mpiexec, name = find_mpiexec()
    return name, {"P2PSIM_MPIEXEC": mpiexec}


def find_mpiexec() -> tuple[str, str]:
    """(path of mpiexec, name of the launch file for it). This environment's own comes first."""
    path = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if path is None:
        raise InputError(
            "no mpiexec found: install an MPI library, for instance with "
            "pip install 'p2psim[mpich]', or run with --debug"
        )
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
    text = answer.stdout + answer.stderr
    if "HYDRA" in text or "MPICH" in text:
        return path, "mpich"
    if "Open MPI" in text or "OpenRTE" in text or "prte" in text:
        return path, "openmpi"
    raise InputError(
        f"{path} belongs to an MPI library that no launch file of {launch_folder()} fits: "
        "start the ranks yourself with mpiexec -n N p2psim run ..."
    )


def start(peers: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `p2psim ARGUMENTS` on `peers` ranks; they end when this process does.

    They have a session of their own: Ctrl-C is for this process, which knows what to do about it.
    """
    name, found = find_launch()
    one_thread()
    environment = {
        **os.environ,
        **found,
        "P2PSIM_PEERS": str(peers),
        "P2PSIM_LAUNCHED": f"{os.getpid()}-{time.time_ns()}",  # no other launch is called that
    }
    stub = [sys.executable, "-I", "-S", str(Path(__file__).with_name("stub.py"))]
    command = [str(launch_folder() / f"{name}.sh"), *stub, *arguments]
    return subprocess.Popen(
        ["/bin/sh", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent(),
    )


def end_with_parent() -> Callable[[], object] | None:
    """What a child must do so that it gets SIGTERM when this process dies; Linux alone can."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl and functools.partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM)
