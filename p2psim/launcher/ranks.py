"""Start the ranks of a run with the launch file that fits the MPI library at hand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from p2psim.errors import InputError
from p2psim.launcher import slurm

RANK_VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # not SLURM_NTASKS: a batch script has that as well
)
INTERRUPTED = 130
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def inside() -> tuple[int, int] | None:
    """(rank, size) where this process was started by mpiexec or srun, else None."""
    if slurm.shell():
        return None
    for rank, size in RANK_VARIABLES:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return None


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


def start(peers: int, arguments: Sequence[str], watch: Callable[[], None]) -> int:
    """Run `p2psim ARGUMENTS` on `peers` ranks; `watch` is called again and again meanwhile.

    Returns the exit code of mpiexec or srun, INTERRUPTED where the user stopped it.
    """
    name, found = find_launch()
    one_thread()
    environment = {
        **os.environ,
        **found,
        "P2PSIM_PEERS": str(peers),
        "P2PSIM_LAUNCHED": "1",
    }
    command = [str(launch_folder() / f"{name}.sh"), sys.executable, "-m", "p2psim", *arguments]
    # A handler that only takes note: an exception raised inside `watch` might get lost there.
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    process = subprocess.Popen(["/bin/sh", *command], env=environment, stdin=subprocess.DEVNULL)
    while process.poll() is None and not asked:
        watch()
    if not asked:
        return process.returncode
    # A terminal sends the signal to mpiexec as well; either way it ends the ranks.
    process.terminate()
    process.wait(timeout=30)
    return INTERRUPTED
