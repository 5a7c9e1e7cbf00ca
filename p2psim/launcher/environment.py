"""Identity of this process among the ranks of a run, read from environment variables.

Every stub imports this module: it must stay cheap, standard library only.
"""

from __future__ import annotations

import os
import sys

RANK_VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    # Not SLURM_NTASKS: a batch script, which is no rank, has that variable as well.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def mpi_rank() -> tuple[int, int] | None:
    """Return (rank, size) if mpiexec or srun started this process as a rank, else None."""
    if is_interactive_step():
        return None
    for rank, size in RANK_VARIABLES:
        if rank in os.environ and size in os.environ:
            return number(rank), number(size)
    return None


def number(name: str) -> int:
    """Return an environment variable as a number; exit with code 2 if it is none."""
    text = os.environ[name]
    if not text.isascii() or not text.isdigit():
        # Not an InputError: its report asks for the rank of this process, hence this variable.
        cure = "start p2psim with mpiexec or srun, or unset the variable"
        print(f"p2psim: {name} = {text[:60]!r} is no number; {cure}", file=sys.stderr)
        sys.exit(2)
    return int(text)


def is_interactive_step() -> bool:
    """Return True in a Slurm step of one task that p2psim has not started: srun --pty, say.

    PMI_RANK and SLURM_PROCID show rank 0 of 1 in such a shell, but it is not a rank; p2psim run
    may start ranks from it.
    """
    return os.environ.get("SLURM_STEP_NUM_TASKS") == "1" and "P2PSIM_LAUNCHED" not in os.environ


def local_rank() -> tuple[int, int]:
    """Return (rank within this node, number of ranks on this node); (0, 0) if unknown."""
    for rank, size in (
        ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ):
        if rank in os.environ and size in os.environ:
            return number(rank), number(size)
    if "SLURM_STEP_TASKS_PER_NODE" in os.environ:
        tasks = tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
        node = int(os.environ.get("SLURM_NODEID", "0"))
        if node < len(tasks):
            return int(os.environ.get("SLURM_LOCALID", "0")), tasks[node]
    return 0, 0


def tasks_per_node(text: str) -> list[int]:
    """Parse Slurm's compressed list of task counts: "8(x2),4" gives [8, 8, 4]."""
    tasks: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        tasks += [int(count)] * int(times.rstrip(")") or 1)
    return tasks


def job_name() -> str:
    """Return a name that is unique to this run and node, and the same for all its ranks."""
    variables = os.environ
    # Virtual nodes of one Slurm host need different names.
    node = variables.get("SLURMD_NODENAME", "")
    if "P2PSIM_LAUNCHED" in variables:
        return f"{variables['P2PSIM_LAUNCHED']}-{node}"
    if "SLURM_STEP_ID" in variables:
        return f"slurm-{variables['SLURM_JOB_ID']}.{variables['SLURM_STEP_ID']}-{node}"
    return f"{variables.get('PMIX_NAMESPACE') or os.getppid()}-{node}"


def remove_server_folder(home: str) -> bool:
    """Remove the folder of a killed fork server; True if this process removed its socket.

    All stubs of a node call it at once. The one that gets True reports that the server was killed.
    """
    first = True
    for name in ("socket", "lock", "log", ""):
        try:
            (os.unlink if name else os.rmdir)(f"{home}/{name}")
        except OSError:
            first = first and name != "socket"
    return first


def stub_command(arguments: list[str]) -> list[str]:
    """Return the command line that starts the stub of the rank `p2psim ARGUMENTS`; see stub.py.

    -I and -S save the start-up of site packages, which a stub does not use. The stub is imported,
    not run as a script, because Python would compile a script at every start.
    """
    root = os.path.abspath(f"{__file__}/../../..")
    main = f"import sys; sys.path.append({root!r}); from p2psim.launcher import stub; stub.main()"
    return [sys.executable, "-I", "-S", "-c", main, *arguments]
