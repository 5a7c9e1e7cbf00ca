"""Initialization of MPI in a rank, after a check that the ranks can reach each other.

As a program (`python -m p2psim.launcher.mpi_init`) it prints the MPI library that mpi4py loads.
"""

from __future__ import annotations

import contextlib
import functools
import warnings

from p2psim.errors import InputError
from p2psim.launcher import mpi_libraries, slurm


@functools.cache
def library() -> mpi_libraries.Library:
    """Load mpi4py and return its MPI library, without initializing MPI."""
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    return mpi_libraries.Library(MPI.Get_library_version().rstrip("\x00"), path_of_libmpi())


def path_of_libmpi() -> str:
    """Return the path of the loaded libmpi; "" if the system has no /proc/self/maps."""
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split(maxsplit=5)[-1].strip()
            if path.rpartition("/")[2].startswith("libmpi.so"):
                return path
    return ""


def check() -> mpi_libraries.Library:
    """Return the loaded MPI library; InputError if another library's mpiexec started this rank.

    Without this check MPI_Init may end the process with no useful message.
    """
    try:
        loaded = library()
    except (ImportError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]
        raise InputError(f"mpi4py cannot be used ({cause}): {mpi_libraries.INSTALL}") from None
    mpi_libraries.check("the ranks were started by", mpi_libraries.of_environment(), loaded)
    return loaded


def init_mpi(size: int) -> None:
    """Initialize MPI in this rank; InputError if MPI joins fewer than the `size` started ranks."""
    loaded = check()
    from mpi4py import MPI

    if not MPI.Is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of mpi4py, about variables of another MPI library
            MPI.Init_thread(MPI.THREAD_SINGLE)  # no locks inside the library
    joined = MPI.COMM_WORLD.size
    if joined < size:
        from p2psim.network.mpi import unlink_shared_memory

        # No other rank will open this memory, so nothing else would remove it.
        unlink_shared_memory()
        MPI.Finalize()
    slurm.check_joined(size, joined)
    if joined == 1 < size:
        started = f"the ranks were started as {size}, but"
        raise InputError(f"{started} {mpi_libraries.mismatch_message(loaded)}")


if __name__ == "__main__":
    mpi_library = library()
    print(f"{mpi_library.path}\n{mpi_library.text}")
