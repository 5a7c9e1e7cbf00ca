"""Where this process stands among the ranks of a run; quick to import, as every rank does it."""

from __future__ import annotations

import os
import sys

RANK_VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # a batch script has SLURM_NTASKS, but this not
)


def mpi_rank() -> tuple[int, int] | None:
    """(rank, size) where this process was started by mpiexec or srun, else None."""
    if is_interactive_step():
        return None
    for rank, size in RANK_VARIABLES:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return None


def is_interactive_step() -> bool:
    """Whether this is a step of one task that p2psim has not started: a shell of srun --pty, say.

    Its PMI_RANK and SLURM_PROCID say 0 of 1; what runs in it is no rank, but may start ranks.
    """
    return os.environ.get("SLURM_STEP_NUM_TASKS") == "1" and "P2PSIM_LAUNCHED" not in os.environ


def local_rank() -> tuple[int, int]:
    """(number among the ranks of this node, how many they are); (0, 0) where nobody says."""
    for rank, size in (
        ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ):
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    if "SLURM_STEP_TASKS_PER_NODE" in os.environ:
        tasks = tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
        node = int(os.environ.get("SLURM_NODEID", "0"))
        if node < len(tasks):
            return int(os.environ.get("SLURM_LOCALID", "0")), tasks[node]
    return 0, 0


def tasks_per_node(text: str) -> list[int]:
    """Slurm's "8(x2),4" as [8, 8, 4]."""
    tasks: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        tasks += [int(count)] * int(times.rstrip(")") or 1)
    return tasks


def job() -> str:
    """A name that the ranks of this run on this node share, and no others."""
    variables = os.environ
    node = variables.get("SLURMD_NODENAME", "")  # virtual nodes share a host
    if "P2PSIM_LAUNCHED" in variables:
        return f"{variables['P2PSIM_LAUNCHED']}-{node}"
    if "SLURM_STEP_ID" in variables:
        return f"slurm-{variables['SLURM_JOB_ID']}.{variables['SLURM_STEP_ID']}-{node}"
    return f"{variables.get('PMIX_NAMESPACE') or os.getppid()}-{node}"


def remove(home: str) -> bool:
    """Remove the folder of a server that was killed; whether this process was the first to."""
    first = True
    for name in ("socket", "lock", "log", ""):
        try:
            (os.unlink if name else os.rmdir)(f"{home}/{name}")
        except OSError:
            first = first and name != "socket"
    return first


def command(arguments: list[str]) -> list[str]:
    """The command line of a stub, which becomes the rank `p2psim ARGUMENTS`.

    Isolated and without site: neither is of use to it. Imported, since a script is compiled anew.
    """
    root = os.path.abspath(f"{__file__}/../../..")
    main = f"import sys; sys.path.append({root!r}); from p2psim.launcher import stub; stub.main()"
    return [sys.executable, "-I", "-S", "-c", main, *arguments]
