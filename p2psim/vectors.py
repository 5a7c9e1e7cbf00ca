"""Kernels on flat vectors, and the base class of the compressors.

A flat vector holds the tensors of a model one after the other. Compressors split it into these
tensors and process each tensor in chunks that fit in the processor's cache. `TensorCodec` holds the
code that all compressors share, so that the file of one compressor defines only how one tensor is
encoded and decoded. Numbers are sent in the float type of the vector and in the byte order of the
machine. All sizes below are numbers of entries unless another unit is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from p2psim.base import Payload, Shape, Stream, Vector
from p2psim.errors import SMALLER_STEPS, ReturnValueError

# 64 Ki entries: 256 KiB of float32 fit in a common L2 cache, and the overhead of a NumPy call (half
# a microsecond) is small compared with the work on one chunk. A multiple of 8, so that one bit per
# entry fills whole bytes.
CHUNK = 1 << 16
LINE = 64  # bytes of a cache line
# Entries per chunk where a pass needs temporary arrays that are larger than the entries themselves
# (64-bit indices, one byte per bit).
PART = 1 << 14


def add_scaled(x: Vector, a: float, y: Vector, out: Vector) -> Vector:
    """Compute out = x + a y in one pass over memory; return out.

    The kernel is torch's, because NumPy needs two passes.
    """
    import torch

    left, right = torch.from_numpy(x), torch.from_numpy(y)
    if out is x:
        left.add_(right, alpha=a)
    else:
        torch.add(left, right, alpha=a, out=torch.from_numpy(out))
    return out


def check_like(result: Any, x: Vector, plugin: object) -> Vector:
    """Return `result` of a plug-in's method.

    ReturnValueError unless it is a vector with the shape and the type of x.
    """
    if not isinstance(result, np.ndarray) or (result.shape, result.dtype) != (x.shape, x.dtype):
        array = isinstance(result, np.ndarray)
        other = f"{result.dtype} {result.shape}" if array else type(result).__name__
        raise ReturnValueError(f"it has returned {other}, not {x.dtype} {x.shape}", plugin)
    return result


def squared_norm(v: Vector) -> float:
    """Return ||v||^2, summed in float64.

    BLAS is not used: its order of summation depends on its number of threads.
    """
    return float(np.einsum("i,i->", v, v, dtype=np.float64))


def chunks(m: int, size: int = CHUNK, first: int = 0) -> Iterator[slice]:
    """Yield slices that divide m entries into chunks of `size` entries; the last may be shorter.

    If `first` is positive, a chunk of `first` entries precedes them.
    """
    first = min(first, m)
    if first:
        yield slice(0, first)
    for start in range(first, m, size):
        yield slice(start, min(start + size, m))


def alignment_offset(x: Vector) -> int:
    """Return the number of entries of x before its first entry at the start of a cache line.

    NumPy is faster on chunks that begin at such an entry.
    """
    address: int = x.__array_interface__["data"][0]
    return -address % LINE // x.itemsize


def write_numbers(out: Payload, dtype: Any, *values: Any) -> int:
    """Write numbers at the start of `out`, which may be unaligned; return the bytes used."""
    numbers = np.array(values, dtype)
    out[: numbers.nbytes] = numbers.view(np.uint8)
    return numbers.nbytes


def read_numbers(payload: Payload, dtype: Any, count: int = 1) -> Vector:
    """Return the first `count` numbers of `payload`; ValueError if one is not finite."""
    numbers: Vector = payload[: count * np.dtype(dtype).itemsize].copy().view(dtype)
    if not np.isfinite(numbers).all():
        raise ValueError(f"damaged payload: its header holds {numbers.tolist()}")
    return numbers


def kept_entries(m: int, keep: float | None, k: int | None) -> int:
    """Return how many of a tensor's m entries are sent: k or floor(m * keep), in 1..m."""
    # 1e-9: floor(100 * (1 - 0.9)) must be 10 although the product is 9.999999999999998.
    count = k if k is not None else max(1, math.floor(m * (keep or 0.0) + 1e-9))
    return min(m, count)


def check_keep_or_k(keep: float | None, k: int | None) -> None:
    """Check that exactly one of `keep` and `k` is given; ValueError otherwise."""
    if (keep is None) == (k is None):
        raise ValueError(
            "give either keep (the fraction of entries kept) or k (their number); "
            f"{'neither is' if keep is None else 'both are'} given"
        )


class Scratch:
    """Temporary arrays that are reused, so that a round allocates no memory.

    They are never part of a result, and checkpoints leave them out.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, str], Any] = {}

    def __call__(self, name: str, size: int, dtype: Any) -> Any:
        """Return `size` entries of undefined value, from the start of a cache line.

        A later call with the same name and type returns the same memory.
        """
        key = name, np.dtype(dtype).char
        if key not in self._arrays or self._arrays[key].size < size:
            # One cache line more than needed, so that the array can begin at the start of a line.
            raw = np.empty(size * np.dtype(dtype).itemsize + LINE, np.uint8)
            start = alignment_offset(raw)
            self._arrays[key] = raw[start : raw.size - LINE + start].view(dtype)
        return self._arrays[key][:size]


class TensorCodec:
    """Base class of compressors that encode each tensor (with per = "vector": the whole vector).

    A subclass defines `nbytes`, `pack` and `unpack` for one tensor. The payload of a vector is the
    concatenation of its tensors' payloads. Their lengths follow from the shapes and are not sent:
    every payload has exactly max_bytes(d) bytes, and `decode` refuses another size by ValueError.
    """

    per: str = "tensor"
    stream: Stream

    def bind(self, shapes: Sequence[Shape], stream: Stream) -> None:
        sizes = [math.prod(shape) for shape in shapes]
        self.sizes = sizes if self.per == "tensor" else [sum(sizes)]
        if max(self.sizes, default=0) >= 2**31:
            raise ValueError("a tensor of 2^31 entries or more does not fit 32-bit indices")
        self.d = sum(sizes)
        self.stream = stream
        self.scratch = Scratch()

    def encode(self, v: Vector, out: Payload) -> int:
        self.check_buffer(v, out)
        used = 0
        with np.errstate(all="ignore"):  # each compressor checks its results for overflow
            for x in self.tensors(v):
                used += self.pack(x, out[used:])
        return used

    def decode(self, payload: Payload, out: Vector) -> None:
        need = self.max_bytes(out.size, out.itemsize)
        if payload.size != need:
            raise ValueError(f"damaged payload: {payload.size} bytes came, {need} were expected")
        start = 0
        with np.errstate(all="ignore"):
            for x in self.tensors(out):
                end = start + self.nbytes(x.size, x.itemsize)
                self.unpack(payload[start:end], x)
                start = end

    def max_bytes(self, d: int, itemsize: int = 4) -> int:
        self.check_size(d)
        return sum(self.nbytes(m, itemsize) for m in self.sizes)

    def check_size(self, d: int) -> None:
        """Check that the compressor is bound to tensors of d entries in total.

        RuntimeError before `bind`, ValueError for another number of entries.
        """
        if not hasattr(self, "sizes"):
            raise RuntimeError(f"{display_name(self)} is used before bind(shapes, stream)")
        if d != self.d:
            raise ValueError(
                f"{display_name(self)} is bound to tensors of {self.d} entries together, "
                f"the vector has {d}"
            )

    def check_buffer(self, v: Vector, out: Payload) -> None:
        """Check that `out` has room for the payload of v; ValueError otherwise."""
        need = self.max_bytes(v.size, v.itemsize)
        if out.size < need:
            raise ValueError(f"the buffer has {out.size} bytes, {need} are needed")

    def tensors(self, v: Vector) -> Iterator[Vector]:
        """Yield a view of v for each tensor; TypeError if v is not a contiguous float vector."""
        if v.ndim != 1 or v.dtype.char not in "fd" or not v.flags.c_contiguous:
            raise TypeError("a vector must be contiguous, of one dimension, float32 or float64")
        start = 0
        for m in self.sizes:
            yield v[start : start + m]
            start += m

    def nbytes(self, m: int, itemsize: int) -> int:
        """Return the payload's bytes for a tensor of m entries of `itemsize` bytes each."""
        raise NotImplementedError

    def pack(self, x: Vector, out: Payload) -> int:
        """Write the payload that encodes x at the start of `out`; return its size in bytes."""
        raise NotImplementedError

    def unpack(self, payload: Payload, x: Vector) -> None:
        """Decode `payload`, whose length is already checked, and write the result into x."""
        raise NotImplementedError

    def check_finite(self, x: Vector) -> None:
        """Check that all entries of x are finite; else FloatingPointError."""
        for chunk in chunks(x.size):
            finite = self.scratch("finite", chunk.stop - chunk.start, np.bool_)
            if not np.isfinite(x[chunk], out=finite).all():
                raise not_finite(self)


def display_name(codec: Any) -> str:
    """Return the plug-in name of a compressor, or its class name if it has none."""
    return str(getattr(codec, "name", type(codec).__name__))


def not_finite(codec: Any) -> FloatingPointError:
    """Return the error for a vector with an entry that is NaN or infinite."""
    return FloatingPointError(
        f"{display_name(codec)}: the vector to compress holds NaN or infinity; "
        f"the run has diverged ({SMALLER_STEPS})"
    )
