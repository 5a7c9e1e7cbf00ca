"""Slurm: which PMI joins ranks inside an allocation, and jobs to be submitted."""

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

# Three: where Slurm's PMIx is older than the MPI library's, two find each other and more do not.
TRIAL = 3
JOINED = f"import sys; from mpi4py import MPI; sys.exit(MPI.COMM_WORLD.size != {TRIAL})"
USUAL = ("pmi2", "pmix")
TRIAL_SECONDS = 120  # to import mpi4py, from a slow shared file system at worst


def at_hand() -> bool:
    """Whether ranks are to be started with srun: inside an allocation of salloc or sbatch."""
    return "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None


def short_addresses() -> None:
    """Make MPICH take a network whose addresses fit through Slurm's PMI, where none was chosen.

    Slurm reads a request of at most 1024 characters; what UCX sends from node to node is longer,
    and the ranks would hang in MPI_Init. An MPICH that has one network only ignores the choice.
    """
    if "SLURM_JOB_ID" in os.environ:
        os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")


def check_joined(started: int, joined: int) -> None:
    """InputError where srun started ranks of which MPI knows only this one."""
    if "SLURM_STEP_NUM_TASKS" in os.environ and joined < started:
        raise InputError(
            f"srun started {started} ranks, but nothing joins them and each believes it is alone: "
            "start them with srun --mpi=pmi2 (MPICH) or srun --mpi=pmix (Open MPI), or with "
            "p2psim run inside the allocation, which finds out what fits"
        )


def flavor(launch_file: Path) -> str:
    """The PMI that joins ranks here, for srun --mpi; $P2PSIM_PMI where the user has set it.

    Found by starting a few ranks with each: srun lists plugins whose library is missing, and with
    one that the MPI library does not speak every rank starts and believes it is alone.
    InputError where none does.
    """
    given = os.environ.get("P2PSIM_PMI")
    if given:
        return given
    listed = flavors()
    for name in listed:
        if joins(name, launch_file):
            return name
    raise InputError(
        f"srun joins no ranks here, whichever --mpi it is given ({', '.join(listed)}): install an "
        "MPI library that fits (MPICH needs pmi2, Open MPI needs pmix), or have its mpiexec start "
        "the ranks (--launch mpich or --launch openmpi)"
    )


def flavors() -> list[str]:
    """What srun --mpi=list says that can join ranks, the most usual first."""
    answer = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True)
    found = re.findall(r"^(?:srun: )?\s*(\w+)$", answer.stdout + answer.stderr, re.MULTILINE)
    if answer.returncode or not found:
        raise InputError(f"srun --mpi=list says nothing of use: {last_line(answer.stderr)}")
    return sorted(set(found) - {"none"}, key=lambda name: (name not in USUAL, name))


def joins(name: str, launch_file: Path) -> bool:
    """Whether a few ranks, started as the peers will be, find each other."""
    command = ["timeout", str(TRIAL_SECONDS), "/bin/sh", str(launch_file), sys.executable, "-c"]
    environment = {**os.environ, "P2PSIM_PMI": name, "P2PSIM_PEERS": str(TRIAL)}
    tried = subprocess.run([*command, JOINED], env=environment, capture_output=True)
    return tried.returncode == 0


def script(template: str, options: Mapping[str, object], command: Sequence[str]) -> str:
    """Fill in the lines @options and @command of a launch file; returns the batch script.

    InputError if a value holds a control character: a line break would begin a line of its own,
    which the shell runs as a command and sbatch reads as an option.
    """
    for text in (*map(str, options.values()), *command):
        if not text.isprintable():
            raise InputError(
                f"{text!r} cannot stand in a batch script, which holds no line breaks and no other "
                "control characters; remove them"
            )
    lines = [f"#SBATCH --{name}={shlex.quote(str(value))}\n" for name, value in options.items()]
    values = {"@options\n": "".join(lines), "@command": shlex.join(command)}
    # In one pass: a value that holds the other mark must stay as it is.
    return re.sub("|".join(values), lambda mark: values[mark.group()], template)


def submit(text: str) -> str:
    """Hand a script to sbatch; returns the number of the job."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "there is no sbatch on this machine: submit where the cluster's Slurm is, or see the "
            "script with --print"
        )
    answer = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    if answer.returncode:
        raise InputError(f"sbatch does not take the job: {last_line(answer.stderr)}")
    return answer.stdout.strip().partition(";")[0]  # number;cluster


def last_line(text: str) -> str:
    """What a Slurm command said last, without its name."""
    lines = text.strip().splitlines() or ["it gives no reason"]
    return lines[-1].removeprefix("sbatch: ").removeprefix("srun: ").removeprefix("error: ")
