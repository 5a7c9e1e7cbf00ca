"""Slurm: the PMI that connects ranks inside an allocation, and the submission of batch jobs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from p2psim.errors import InputError

# Three: if Slurm's PMIx is older than that of the MPI library, two ranks connect, three do not.
TRIAL = 3
TRIAL_PROGRAM = f"import sys; from mpi4py import MPI; sys.exit(MPI.COMM_WORLD.size != {TRIAL})"
USUAL = ("pmi2", "pmix")  # the first ones to try
TRIAL_SECONDS = 120  # a slow shared file system may take that long for the import of mpi4py


def in_allocation() -> bool:
    """Return True inside an allocation of salloc or sbatch, where srun starts the ranks."""
    return "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None


def short_addresses() -> None:
    """Select MPICH's network module ofi under Slurm, unless the user has selected one.

    Slurm's PMI reads at most 1024 characters per request. The addresses that UCX sends between
    nodes are longer, and the ranks would hang in MPI_Init. An MPICH with a single network module
    ignores the variable.
    """
    if "SLURM_JOB_ID" in os.environ:
        os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")


def check_joined(started: int, joined: int) -> None:
    """Raise InputError if srun started more ranks than MPI has joined."""
    if "SLURM_STEP_NUM_TASKS" in os.environ and joined < started:
        raise InputError(
            f"srun started {started} ranks, but no PMI joins them, so that each rank is alone: "
            "start them with srun --mpi=pmi2 (MPICH) or srun --mpi=pmix (Open MPI), or with "
            "p2psim run inside the allocation, which selects the PMI itself"
        )


def flavor(launch_file: Path) -> str:
    """Return the value for srun --mpi that joins ranks; $P2PSIM_PMI if the user has set it.

    Each listed value is tried with a few ranks, because the list alone proves nothing: srun also
    lists plugins whose library is missing, and with a PMI that the MPI library does not support
    every rank starts alone. InputError if no value joins the ranks.
    """
    chosen = os.environ.get("P2PSIM_PMI")
    if chosen:
        return chosen
    names = flavors()
    for name in names:
        if joins(name, launch_file):
            return name
    raise InputError(
        f"srun joins no ranks with any --mpi that it lists ({', '.join(names)}): install an "
        "MPI library that fits (MPICH needs pmi2, Open MPI needs pmix), or have its mpiexec start "
        "the ranks (--launch mpich or --launch openmpi)"
    )


def flavors() -> list[str]:
    """Return the values for --mpi that srun lists, the usual ones first; InputError if none."""
    answer = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True)
    names = re.findall(r"^(?:srun: )?\s*(\w+)$", answer.stdout + answer.stderr, re.MULTILINE)
    if answer.returncode or not names:
        raise InputError(f"srun --mpi=list lists no PMI: {last_line(answer.stderr)}")
    return sorted(set(names) - {"none"}, key=lambda name: (name not in USUAL, name))


def joins(name: str, launch_file: Path) -> bool:
    """Return True if a few ranks connect when they are started as the peers will be."""
    command = ["timeout", str(TRIAL_SECONDS), "/bin/sh", str(launch_file), sys.executable, "-c"]
    environment = {**os.environ, "P2PSIM_PMI": name, "P2PSIM_PEERS": str(TRIAL)}
    trial = subprocess.run([*command, TRIAL_PROGRAM], env=environment, capture_output=True)
    return trial.returncode == 0


def script(template: str, options: Mapping[str, object], command: Sequence[str]) -> str:
    """Replace the marks @options and @command of a launch file; returns the batch script.

    InputError if a value contains a control character: after a line break the shell would run the
    rest of the value as a command, or sbatch would read it as an option.
    """
    for text in (*map(str, options.values()), *command):
        if not text.isprintable():
            raise InputError(
                f"{text!r} cannot be written into a batch script: remove its line breaks and other "
                "control characters"
            )
    lines = [f"#SBATCH --{name}={shlex.quote(str(value))}\n" for name, value in options.items()]
    values = {"@options\n": "".join(lines), "@command": shlex.join(command)}
    # In one pass, so that a mark inside a value is not replaced.
    return re.sub("|".join(values), lambda mark: values[mark.group()], template)


def submit(text: str) -> str:
    """Submit a batch script with sbatch; returns the number of the job."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "no sbatch on this machine: submit from a machine of the Slurm cluster, or print the "
            "script with --print"
        )
    answer = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    if answer.returncode:
        raise InputError(f"sbatch rejects the job: {last_line(answer.stderr)}")
    return answer.stdout.strip().partition(";")[0]  # sbatch prints NUMBER;CLUSTER


def last_line(text: str) -> str:
    """Return the last line of a Slurm command's output, without the prefix of the command."""
    lines = text.strip().splitlines() or ["it gives no reason"]
    return lines[-1].removeprefix("sbatch: ").removeprefix("srun: ").removeprefix("error: ")
