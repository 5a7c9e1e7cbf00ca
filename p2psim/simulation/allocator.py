"""What the C library's allocator does with memory that is free again (glibc; elsewhere nothing).

Starting up needs large blocks for a moment, a hundred peers at once: they go back to the system.
Training needs the same large blocks in every step: they stay. And what forked peers share must not
be full of holes: a block allocated in one of them costs a peer the page around it.
"""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt
SMALL, LARGE = 1 << 17, 1 << 25  # bytes; 32 MiB is as far as glibc itself would go in time
HOLES = [1 << k for k in range(16, 10, -1)] + list(range(1008, 8, -16))  # bytes
INFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")

_libc = ctypes.CDLL(None)


class Info(ctypes.Structure):
    """What mallinfo2 returns; keepcost is the size of the block at the top of the heap."""

    _fields_ = [(name, ctypes.c_size_t) for name in (*INFO, "fordblks", "keepcost")]


def return_freed_memory() -> None:
    """From now on free blocks go back at once."""
    _set(SMALL)


def keep_freed_memory() -> None:
    """Give back what is free now; from now on it is kept."""
    _set(LARGE)
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def fill_holes_before_fork() -> None:
    """Take all blocks between those in use, for good: what comes lies together above them.

    For a process with a single thread that is about to fork many others.
    """
    if not hasattr(_libc, "mallinfo2"):
        return
    _libc.mallinfo2.restype = Info
    _libc.malloc.restype = _libc.sbrk.restype = ctypes.c_void_p
    top = _libc.sbrk(0) - _libc.mallinfo2().keepcost
    for size in HOLES:
        while 0 < (block := _libc.malloc(ctypes.c_size_t(size)) or 0) < top:  # 0: no memory left
            pass
        _libc.free(ctypes.c_void_p(block))


def _set(size: int) -> None:
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(MMAP_THRESHOLD, size)
        _libc.mallopt(TRIM_THRESHOLD, 2 * size)
