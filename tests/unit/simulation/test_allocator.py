"""Large vectors, and memory of closed files."""

from __future__ import annotations

import ctypes

import h5py
import h5py.h5
import numpy as np
import pytest

from p2psim.simulation import allocator


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [0, 1, 1000, 2**18, 2**19, 1_000_185, 2**20, 2**21 - 5])
def test_zeros_are_zeros_that_can_be_written(size: int, dtype: str) -> None:
    zeros = allocator.zeros(size, dtype)
    assert (zeros.shape, zeros.dtype) == ((size,), np.dtype(dtype))
    assert not zeros.any()
    zeros[:] = np.arange(size)
    assert np.array_equal(zeros, np.arange(size, dtype=dtype))
    assert zeros.flags.c_contiguous


def test_a_vector_of_a_million_entries_lies_in_large_pages() -> None:
    vector = allocator.zeros(1_000_185, "float32")
    vector[:] = 1
    start = vector.__array_interface__["data"][0]
    assert start % 4096 == 0  # a mapping of its own, which the system can back by large pages


def hdf5_memory() -> int:
    """Bytes that the HDF5 library keeps for later use."""
    sizes = [ctypes.c_size_t() for _ in range(4)]
    ctypes.CDLL(h5py.h5.__file__).H5get_free_list_sizes(*map(ctypes.byref, sizes))
    return sum(size.value for size in sizes)


def test_hdf5_gives_back_the_memory_of_a_closed_file() -> None:
    allocator.free_unused_hdf5_memory()
    before = hdf5_memory()
    with h5py.File("new", "w", driver="core", backing_store=False) as file:
        file["values"] = np.zeros(1000)
    assert hdf5_memory() > before
    allocator.free_unused_hdf5_memory()
    assert hdf5_memory() <= before
