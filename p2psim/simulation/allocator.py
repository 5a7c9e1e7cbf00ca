"""Large vectors, and settings of the C library's allocator (glibc; no effect on other systems).

- Start-up allocates large blocks for a moment, in up to a hundred peers at once: free blocks are
  returned to the system.
- Training allocates the same large blocks in every step: free blocks are kept.
- Before the fork server forks its ranks, holes between its blocks are filled: a rank that later
  allocated a block in a hole would copy the whole shared page around it.
"""

import contextlib
import ctypes
import mmap
from typing import Any

import numpy as np

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt
SMALL, LARGE = 1 << 17, 1 << 25  # bytes; 32 MiB is the maximum of glibc's own dynamic threshold
PAGE = 1 << 21  # bytes of a large page of memory
HOLES = [1 << k for k in range(16, 10, -1)] + list(range(1008, 8, -16))  # bytes
INFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")

_libc = ctypes.CDLL(None)


class Info(ctypes.Structure):
    """Result of mallinfo2; keepcost is the size of the free block at the top of the heap."""

    _fields_ = [(name, ctypes.c_size_t) for name in (*INFO, "fordblks", "keepcost")]


def zeros(size: int, dtype: Any) -> Any:
    """Return zeros of shape (size,), in large pages if these waste at most an eighth of the memory.

    The processor and the system find fewer pages sooner: another rank copies a message of 4 MB out
    of large pages in less time, and passes over such a vector are faster.
    """
    need = size * np.dtype(dtype).itemsize
    room = -(-need // PAGE) * PAGE
    if not need or room - need > need // 8 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(size, dtype)
    memory = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, size)


def return_freed_memory() -> None:
    """Make the allocator return large free blocks to the system at once."""
    _set_threshold(SMALL)


def keep_freed_memory() -> None:
    """Return the memory that is free now, and make the allocator keep later free blocks."""
    _set_threshold(LARGE)
    free_unused_hdf5_memory()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def free_unused_hdf5_memory() -> None:
    """Free the memory that the HDF5 library has kept of closed files, half a megabyte or more."""
    import h5py.h5
    from h5py._objects import phil  # the lock of all calls into HDF5; other threads may call, too

    library = ctypes.CDLL(h5py.h5.__file__)  # linked to HDF5; h5py itself offers no such function
    with phil:
        if hasattr(library, "H5garbage_collect"):
            library.H5garbage_collect()


def fill_holes_before_fork() -> None:
    """Allocate and leak every free block below the top of the heap.

    Later allocations are then contiguous above the old blocks, and forked ranks copy fewer shared
    pages. Only for a process with a single thread that is about to fork many others.
    """
    if not hasattr(_libc, "mallinfo2"):
        return
    _libc.mallinfo2.restype = Info
    _libc.malloc.restype = _libc.sbrk.restype = ctypes.c_void_p
    top = _libc.sbrk(0) - _libc.mallinfo2().keepcost
    # Large sizes first, so that small blocks fill only the remainders.
    for size in HOLES:
        while 0 < (block := _libc.malloc(ctypes.c_size_t(size)) or 0) < top:  # 0: no memory left
            pass
        _libc.free(ctypes.c_void_p(block))


def _set_threshold(size: int) -> None:
    """Map blocks of at least `size` bytes individually; trim the heap above twice that size."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(MMAP_THRESHOLD, size)
        _libc.mallopt(TRIM_THRESHOLD, 2 * size)
