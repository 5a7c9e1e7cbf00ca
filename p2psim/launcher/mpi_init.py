"""How a rank joins the others: MPI is initialized once it is sure that they can find each other.

As a program (`python -m p2psim.launcher.mpi_init`) it prints which library mpi4py loads.
"""

from __future__ import annotations

import contextlib
import functools
import warnings

from p2psim.errors import InputError
from p2psim.launcher import mpi_libraries, slurm


@functools.cache
def library() -> mpi_libraries.Library:
    """The MPI library that mpi4py loads into this process, which is not initialized by that."""
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    return mpi_libraries.Library(MPI.Get_library_version().rstrip("\x00"), path_of_libmpi())


def path_of_libmpi() -> str:
    """The file that was loaded; "" where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split(maxsplit=5)[-1].strip()
            if path.rpartition("/")[2].startswith("libmpi.so"):
                return path
    return ""


def check() -> mpi_libraries.Library:
    """The library at hand; InputError where another library's mpiexec has started this rank.

    MPI_Init might end the process there, without a word that helps.
    """
    try:
        loaded = library()
    except (ImportError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]
        raise InputError(f"mpi4py cannot be used ({cause}): {mpi_libraries.INSTALL}") from None
    mpi_libraries.check("the ranks were started by", mpi_libraries.of_starter(), loaded)
    return loaded


def init_mpi(size: int) -> None:
    """Initialize MPI in this rank, one of `size`. InputError where it is alone all the same."""
    loaded = check()
    from mpi4py import MPI

    if not MPI.Is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mpi4py's own, at variables of another library
            MPI.Init_thread(MPI.THREAD_SINGLE)  # no locks inside the library
    joined = MPI.COMM_WORLD.size
    if joined < size:
        from p2psim.network.transport import unlink_shared_memory

        unlink_shared_memory()  # nobody else will open that memory
        MPI.Finalize()
    slurm.check_joined(size, joined)
    if joined == 1 < size:
        started = f"the ranks were started as {size}, but"
        raise InputError(f"{started} {mpi_libraries.apart(loaded)}")


if __name__ == "__main__":
    found = library()
    print(f"{found.path}\n{found.text}")
