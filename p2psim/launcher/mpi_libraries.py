"""MPI libraries: what a program's own words say about its library, and which mpi4py loads.

Ranks that one library's mpiexec starts and another library's libmpi serves do not find each
other: each believes that it is alone, or ends inside MPI_Init.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from p2psim.errors import InputError

# Launch file -> how its libraries and their mpiexec call themselves, the most telling first.
SIGNS = {
    "mpich": {
        "Intel(R) MPI": "Intel MPI",
        "MVAPICH": "MVAPICH",
        "MPICH": "MPICH",
        "HYDRA": "MPICH",
    },
    "openmpi": {
        **{"Spectrum MPI": "Spectrum MPI", "Open MPI": "Open MPI"},
        **{"OpenRTE": "Open MPI", "prte": "Open MPI"},
    },
}
# A variable that only this kind of mpiexec sets for its ranks; srun sets neither.
STARTERS = {"MPICH": "MPI_LOCALNRANKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
INSTALL = "install an MPI library, for instance with pip install 'p2psim[mpich]'"


@dataclass(frozen=True)
class Library:
    """An MPI library by what it says of itself, or its mpiexec does."""

    text: str
    path: str = ""  # of its file, where that is known

    @property
    def kind(self) -> str:
        """Name of the launch file for it, "" if there is none."""
        fits = (kind for kind, signs in SIGNS.items() if any(sign in self.text for sign in signs))
        return next(fits, "")

    @property
    def title(self) -> str:
        """Name and version, as in "MPICH 5.0.2"."""
        names = [name for sign, name in SIGNS.get(self.kind, {}).items() if sign in self.text]
        version = re.search(r"\d+\.\d+[\w.]*", self.text)
        return f"{names[0]} {version[0] if version else ''}".strip() if names else self.text[:60]

    @property
    def mpiexec(self) -> str:
        """The folder of its own mpiexec, "" where it is not found."""
        folder = Path(self.path).resolve().parent.parent / "bin"
        return str(folder) if self.path and (folder / "mpiexec").exists() else ""


def of_mpiexec(path: str) -> Library:
    """The library that an mpiexec belongs to."""
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
    return Library(answer.stdout + answer.stderr, path)


def of_mpi4py() -> Library:
    """The library that mpi4py loads, asked of another process. InputError where it finds none."""
    command = [sys.executable, "-m", "p2psim.launcher.mpi_init"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if answer.returncode:
        cause = (answer.stderr.strip().splitlines() or ["no word"])[-1]
        raise InputError(f"mpi4py cannot be used ({cause}): {INSTALL}, or run with --debug")
    path, _, text = answer.stdout.partition("\n")
    return Library(text, path)


def cuda_aware() -> bool | None:
    """Whether the library that mpi4py loads takes memory of a GPU; None where it does not say."""
    query = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).MPIX_Query_cuda_support())"
    command = [sys.executable, "-c", query, of_mpi4py().path]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return answer.stdout.strip() == "1" if answer.returncode == 0 else None


def of_starter() -> Library:
    """What the variables of this rank tell of the mpiexec that started it: a name, or nothing."""
    names = [name for name, variable in STARTERS.items() if variable in os.environ]
    return Library(names[0] if len(names) == 1 else "")


def check(started: str, starter: Library, loaded: Library) -> None:
    """InputError where ranks that `starter`'s mpiexec starts would not find each other."""
    if starter.kind and loaded.kind and starter.kind != loaded.kind:
        raise InputError(f"{started} {starter.title}'s mpiexec, but {apart(loaded)}")


def apart(loaded: Library) -> str:
    """What is wrong and what to do where `loaded` is not the library of the mpiexec in use."""
    where = f" ({loaded.path})" if loaded.path else ""
    own = f", {loaded.mpiexec}," if loaded.mpiexec else ""
    return (
        f"mpi4py loads {loaded.title}{where}, so that every rank is alone: put the folder with "
        f"that library's own mpiexec{own} first on PATH, or set MPI4PY_LIBMPI to the libmpi.so "
        "that belongs to the mpiexec in use"
    )
