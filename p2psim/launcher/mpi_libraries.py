"""Identification of MPI libraries: the one that mpi4py loads and the one of an mpiexec.

If the mpiexec of one library starts ranks that load the libmpi of another, the ranks do not reach
each other: each one is alone in its MPI_COMM_WORLD, or ends inside MPI_Init.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from p2psim.errors import InputError

# Launch file -> {text in the version of a library or its mpiexec: name of the library}. The first
# match gives the name, so names of one library come before those that several libraries share.
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
# Library -> a variable that only its mpiexec sets for ranks; srun sets neither.
MPIEXEC_VARIABLES = {"MPICH": "MPI_LOCALNRANKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
INSTALL = "install an MPI library, for instance with pip install 'p2psim[mpich]'"


@dataclass(frozen=True)
class Library:
    """MPI library, identified by the version text of the library or of its mpiexec."""

    text: str
    path: str = ""  # of libmpi or of mpiexec, if known

    @property
    def kind(self) -> str:
        """Name of its launch file, "" if no launch file fits."""
        kinds = (kind for kind, signs in SIGNS.items() if any(sign in self.text for sign in signs))
        return next(kinds, "")

    @property
    def title(self) -> str:
        """Name and version, such as "MPICH 5.0.2"."""
        names = [name for sign, name in SIGNS.get(self.kind, {}).items() if sign in self.text]
        version = re.search(r"\d+\.\d+[\w.]*", self.text)
        return f"{names[0]} {version[0] if version else ''}".strip() if names else self.text[:60]

    @property
    def mpiexec(self) -> str:
        """Folder of the mpiexec that was installed with this library, "" if not found."""
        folder = Path(self.path).resolve().parent.parent / "bin"
        return str(folder) if self.path and (folder / "mpiexec").exists() else ""


def of_mpiexec(path: str) -> Library:
    """Return the library that the mpiexec at `path` belongs to."""
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
    return Library(answer.stdout + answer.stderr, path)


def of_mpi4py() -> Library:
    """Return the library that mpi4py loads in a process of its own; InputError if it loads none."""
    command = [sys.executable, "-m", "p2psim.launcher.mpi_init"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if answer.returncode:
        cause = (answer.stderr.strip().splitlines() or ["no error message"])[-1]
        raise InputError(f"mpi4py cannot be used ({cause}): {INSTALL}, or run with --debug")
    path, _, text = answer.stdout.partition("\n")
    return Library(text, path)


def cuda_aware() -> bool | None:
    """Return True if the MPI library accepts GPU memory, None if it does not report that."""
    query = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).MPIX_Query_cuda_support())"
    command = [sys.executable, "-c", query, of_mpi4py().path]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return answer.stdout.strip() == "1" if answer.returncode == 0 else None


def of_environment() -> Library:
    """Return the library whose mpiexec started this rank, with empty text if unknown."""
    names = [name for name, variable in MPIEXEC_VARIABLES.items() if variable in os.environ]
    return Library(names[0] if len(names) == 1 else "")


def check(started: str, starter: Library, loaded: Library) -> None:
    """Raise InputError if the mpiexec of `starter` and the library `loaded` do not belong together.

    `started` is the beginning of the message, up to the name of the starter.
    """
    if starter.kind and loaded.kind and starter.kind != loaded.kind:
        raise InputError(f"{started} {starter.title}'s mpiexec, but {mismatch_message(loaded)}")


def mismatch_message(loaded: Library) -> str:
    """Return the error message for a library `loaded` that is not that of the mpiexec in use."""
    path = f" ({loaded.path})" if loaded.path else ""
    own = f", {loaded.mpiexec}," if loaded.mpiexec else ""
    return (
        f"mpi4py loads {loaded.title}{path}, so that every rank is alone: put the folder with "
        f"that library's own mpiexec{own} first on PATH, or set MPI4PY_LIBMPI to the libmpi.so "
        "that belongs to the mpiexec in use"
    )
