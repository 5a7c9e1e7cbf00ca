"""What the C library's allocator does with memory that is free again (glibc; elsewhere nothing).

Starting up needs large blocks for a moment, a hundred peers at once: they go back to the system.
Training needs the same large blocks in every step: they stay.
"""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt
SMALL, LARGE = 1 << 17, 1 << 25  # bytes; 32 MiB is as far as glibc itself would go in time

_libc = ctypes.CDLL(None)


def frugal() -> None:
    """From now on free blocks go back at once."""
    _set(SMALL)


def quick() -> None:
    """Give back what is free now; from now on it is kept."""
    _set(LARGE)
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def _set(size: int) -> None:
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(MMAP_THRESHOLD, size)
        _libc.mallopt(TRIM_THRESHOLD, 2 * size)
