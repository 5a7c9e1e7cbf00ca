"""Flat vectors: cut at tensor borders, walked in chunks that stay in the processor's cache.

`TensorCodec` holds what the compressors share, so that a compressor's own file says only how one
tensor becomes bytes and how these bytes become the tensor again. Numbers travel in the vector's
own float type and in the machine's byte order; all sizes below are in entries unless said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from p2psim.base import Payload, Shape, Stream, Vector

# 64 Ki entries: 256 KiB of float32 stay in a common L2, and NumPy's cost per call (half a
# microsecond) is small against the work on one chunk. A multiple of 8, so that bits fill bytes.
CHUNK = 1 << 16
LINE = 64  # bytes
PART = 1 << 14  # where a pass makes wide temporaries (64-bit indices, a byte per bit)


def add_scaled(x: Vector, a: float, y: Vector, out: Vector) -> Vector:
    """out = x + a y in one pass over memory (torch's kernel; NumPy would make two)."""
    import torch

    torch.add(torch.from_numpy(x), torch.from_numpy(y), alpha=a, out=torch.from_numpy(out))
    return out


def squared_norm(v: Vector) -> float:
    """||v||^2 in float64; not by BLAS, whose sums depend on its number of threads."""
    return float(np.einsum("i,i->", v, v, dtype=np.float64))


def spans(m: int, chunk: int = CHUNK, first: int = 0) -> Iterator[slice]:
    """The slices that cut m entries into chunks, the first one `first` entries where given."""
    first = min(first, m)
    if first:
        yield slice(0, first)
    for at in range(first, m, chunk):
        yield slice(at, min(at + chunk, m))


def skew(x: Vector) -> int:
    """Entries of x before the first that starts a cache line: NumPy is faster from there on."""
    address: int = x.__array_interface__["data"][0]
    return -address % LINE // x.itemsize


def put(out: Payload, dtype: Any, *values: Any) -> int:
    """Write numbers at the start of `out`, which may be unaligned; the bytes used."""
    numbers = np.array(values, dtype)
    out[: numbers.nbytes] = numbers.view(np.uint8)
    return numbers.nbytes


def get(payload: Payload, dtype: Any, count: int = 1) -> Vector:
    """The first `count` numbers of `payload`; ValueError if one is not finite."""
    numbers: Vector = payload[: count * np.dtype(dtype).itemsize].copy().view(dtype)
    if not np.isfinite(numbers).all():
        raise ValueError(f"damaged payload: its header holds {numbers.tolist()}")
    return numbers


def kept(m: int, keep: float | None, k: int | None) -> int:
    """How many of a tensor's m entries travel: k, or floor(m * keep) but at least one."""
    # 1e-9: floor(100 * (1 - 0.9)) must be 10 although the product is 9.999999999999998.
    wanted = k if k is not None else max(1, math.floor(m * (keep or 0.0) + 1e-9))
    return min(m, wanted)


def one_of(keep: float | None, k: int | None) -> None:
    """Refuse a sparse compressor that was given both of its parameters, or none."""
    if (keep is None) == (k is None):
        raise ValueError(
            f"give either keep (the fraction of entries kept) or k (their number), "
            f"not {'neither' if keep is None else 'both'}"
        )


class Scratch:
    """Arrays kept between calls, so that a round allocates nothing; never part of a result."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, str], Any] = {}

    def __call__(self, name: str, size: int, dtype: Any) -> Any:
        """`size` entries of undefined value, the same memory for the same name and type."""
        key = name, np.dtype(dtype).char
        if key not in self._arrays or self._arrays[key].size < size:
            raw = np.empty(size * np.dtype(dtype).itemsize + LINE, np.uint8)
            start = skew(raw)
            self._arrays[key] = raw[start : raw.size - LINE + start].view(dtype)
        return self._arrays[key][:size]


class TensorCodec:
    """A compressor that treats each tensor (or, with per = "vector", the vector) by itself.

    A subclass gives `nbytes`, `pack` and `unpack` for one tensor. The payload is the tensors'
    payloads one after the other: their lengths follow from the shapes, so none is sent.
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
        self.room(v, out)
        used = 0
        with np.errstate(all="ignore"):  # what overflows is found in the results
            for x in self.cut(v):
                used += self.pack(x, out[used:])
        return used

    def decode(self, payload: Payload, out: Vector) -> None:
        need = self.max_bytes(out.size, out.itemsize)
        if payload.size != need:
            raise ValueError(f"damaged payload: {payload.size} bytes came, {need} were expected")
        at = 0
        with np.errstate(all="ignore"):
            for x in self.cut(out):
                end = at + self.nbytes(x.size, x.itemsize)
                self.unpack(payload[at:end], x)
                at = end

    def max_bytes(self, d: int, itemsize: int = 4) -> int:
        self.check(d)
        return sum(self.nbytes(m, itemsize) for m in self.sizes)

    def check(self, d: int) -> None:
        """Refuse a vector that this compressor was not bound to."""
        if not hasattr(self, "sizes"):
            raise RuntimeError(f"{title(self)} is used before bind(shapes, stream)")
        if d != self.d:
            raise ValueError(
                f"{title(self)} is bound to tensors of {self.d} entries together, "
                f"the vector has {d}"
            )

    def room(self, v: Vector, out: Payload) -> None:
        """Refuse a buffer that the payload of v might not fit into."""
        need = self.max_bytes(v.size, v.itemsize)
        if out.size < need:
            raise ValueError(f"the buffer has {out.size} bytes, {need} are needed")

    def cut(self, v: Vector) -> Iterator[Vector]:
        """Views of v, one per tensor."""
        if v.ndim != 1 or v.dtype.char not in "fd" or not v.flags.c_contiguous:
            raise TypeError("a vector must be contiguous, of one dimension, float32 or float64")
        at = 0
        for m in self.sizes:
            yield v[at : at + m]
            at += m

    def nbytes(self, m: int, itemsize: int) -> int:
        """Bytes of the payload of a tensor of m entries of `itemsize` bytes."""
        raise NotImplementedError

    def pack(self, x: Vector, out: Payload) -> int:
        """Write C(x) at the start of `out`; the bytes used."""
        raise NotImplementedError

    def unpack(self, payload: Payload, x: Vector) -> None:
        """Write the tensor that `payload` (of the right length) stands for into x."""
        raise NotImplementedError

    def finite(self, x: Vector) -> None:
        """FloatingPointError if an entry of x is NaN or infinite."""
        for span in spans(x.size):
            good = self.scratch("finite", span.stop - span.start, np.bool_)
            if not np.isfinite(x[span], out=good).all():
                raise not_finite(self)


def title(codec: Any) -> str:
    """The name under which users know a compressor."""
    return str(getattr(codec, "name", type(codec).__name__))


def not_finite(codec: Any) -> FloatingPointError:
    """The error for a vector that holds NaN or infinity."""
    return FloatingPointError(
        f"{title(codec)}: the vector to compress holds NaN or infinity; "
        f"the run has diverged (lower lr, gamma or eta_d)"
    )
