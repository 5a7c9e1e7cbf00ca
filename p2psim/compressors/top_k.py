"""The largest entries of each tensor, found exactly without sorting or copying the vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Compressor, Count, Fraction, Payload, Shape, Stream, Vector
from p2psim.registry import find, plugin
from p2psim.vectors import CHUNK, PART, Scratch, TensorCodec, kept, one_of, spans

STEP = 61  # one entry in 61 is sampled; a prime, so that no common row length falls into step


@plugin("compressor", "top-k", source="Stich, Cordonnier & Jaggi 2018, definition 2.2")
class TopK(TensorCodec):
    """C(x) keeps the k entries of largest magnitude (ties: lowest index), the others become 0.

    k per tensor of m entries is `k`, or max(1, floor(m keep)); contraction >= k / m. What is kept
    goes through the compressor `values` (affine-8: 5k + 8 bytes per tensor).

    Payload: the kept values of all tensors as `values` encodes them, then all their indices
    within their tensors, ascending, as int32: 8k bytes per tensor (12k in float64).
    """

    keep: Fraction | None = None
    k: Count | None = None
    per: Literal["tensor", "vector"] = "tensor"
    values: Compressor = cast(Any, "identity")

    def __post_init__(self) -> None:
        one_of(self.keep, self.k)
        if isinstance(self.values, str):  # constructed in Python, not from an experiment file
            self.values = find("compressor", self.values, Path())()

    def bind(self, shapes: Sequence[Shape], stream: Stream) -> None:
        super().bind(shapes, stream)
        self.counts = [kept(m, self.keep, self.k) for m in self.sizes]
        self.total = sum(self.counts)
        self.values.bind([(k,) for k in self.counts], stream)

    def max_bytes(self, d: int, itemsize: int = 4) -> int:
        self.check(d)
        return self.values.max_bytes(self.total, itemsize) + 4 * self.total

    def encode(self, v: Vector, out: Payload) -> int:
        self.room(v, out)
        values = self.scratch("values", self.total, v.dtype)
        index: NDArray[np.int32] = self.scratch("index", self.total, np.int32)
        at = 0
        for x, k in zip(self.cut(v), self.counts, strict=True):
            chosen = index[at : at + k]
            largest(x, k, chosen, self.scratch)
            gather(x, chosen, values[at : at + k], self.scratch)
            at += k
        # NaN and infinity count as largest, so `values` meets them and refuses them.
        used = self.values.encode(values, out)
        out[used : used + index.nbytes] = index.view(np.uint8)
        return used + index.nbytes

    def decode(self, payload: Payload, out: Vector) -> None:
        self.check(out.size)
        split = payload.size - 4 * self.total
        if split < 0:
            raise ValueError(f"damaged payload: {payload.size} bytes hold no {self.total} indices")
        values = self.scratch("values", self.total, out.dtype)
        index = self.scratch("index", self.total, np.int32)
        self.values.decode(payload[:split], values)
        index.view(np.uint8)[:] = payload[split:]
        out.fill(0)
        at = 0
        for x, k in zip(self.cut(out), self.counts, strict=True):
            scatter(values[at : at + k], index[at : at + k], x, self.scratch)
            at += k


def gather(x: Vector, index: NDArray[np.int32], out: Vector, scratch: Scratch) -> None:
    """out = x[index], in parts: NumPy widens indices to 64 bits."""
    for span in spans(index.size, PART):
        wide = scratch("wide", span.stop - span.start, np.intp)
        np.copyto(wide, index[span])
        np.take(x, wide, out=out[span], mode="clip")


def scatter(values: Vector, index: NDArray[np.int32], x: Vector, scratch: Scratch) -> None:
    """x[index] = values; ValueError if the indices are not ascending within x."""
    for span in spans(index.size, PART):
        wide = scratch("wide", span.stop - span.start, np.intp)
        np.copyto(wide, index[span])
        last = index[span.start - 1] if span.start else -1
        if wide[0] <= last or wide[-1] >= x.size or not (wide[1:] > wide[:-1]).all():
            raise ValueError(f"damaged payload: indices are not ascending from 0 to {x.size - 1}")
        x[wide] = values[span]


def largest(x: Vector, k: int, out: NDArray[np.int32], scratch: Scratch) -> None:
    """The indices of x's k entries of largest magnitude, ascending; ties to the lowest index."""
    if k >= x.size:
        for span in spans(k, PART):
            out[span] = np.arange(span.start, span.stop)
        return
    # Without the sign bit, floats are ordered as the integers of the same bits are, NaN above
    # infinity above all numbers: comparisons are total, and what is not finite gets chosen.
    bits = x.view(np.int32 if x.itemsize == 4 else np.int64)
    least = guess(bits, k, scratch)
    found = 0 if least is None else candidates(bits, least, k, scratch)
    if found < k:
        exact(bits, k, out, scratch)
        return
    exact(scratch("magnitude", found, bits.dtype), k, out, scratch)
    gather(scratch("position", found, np.int32), out, out, scratch)


def guess(bits: Vector, k: int, scratch: Scratch) -> Any:
    """A magnitude that probably somewhat more than k entries reach, from a sample; or None."""
    sample = bits[::STEP]
    # Four standard deviations of a sample's count above k: rarely too few, hardly too many.
    rank = int(k / STEP + 4 * math.sqrt(k / STEP) + 4)
    if bits.size < PART or 2 * rank > sample.size:
        return None
    drawn = scratch("sample", sample.size, bits.dtype)
    np.bitwise_and(sample, np.iinfo(bits.dtype).max, out=drawn)
    drawn.partition(sample.size - rank)
    return drawn[sample.size - rank]


def candidates(bits: Vector, least: Any, k: int, scratch: Scratch) -> int:
    """Collect position and magnitude of the entries that reach `least`; how many, 0: too many."""
    room, found, top = min(bits.size, 2 * k + PART), 0, np.iinfo(bits.dtype).max
    position = scratch("position", room, np.int32)
    magnitude = scratch("magnitude", room, bits.dtype)
    parts = scratch("part", min(bits.size, CHUNK), bits.dtype)
    below, real = scratch("mask", parts.size, np.bool_), np.dtype(f"f{bits.itemsize}")
    for span in spans(bits.size):
        part = np.bitwise_and(bits[span], top, out=parts[: span.stop - span.start])
        # As floats, which NumPy compares faster; NaN is not below, so it stays a candidate.
        mask = np.less(part.view(real), least.view(real), out=below[: part.size])
        (here,) = np.logical_not(mask, out=mask).nonzero()
        end = found + here.size
        if end > room:
            return 0
        np.take(part, here, out=magnitude[found:end], mode="clip")
        position[found:end] = np.add(here, span.start, out=here)
        found = end
    return found


def exact(bits: Vector, k: int, out: NDArray[np.int32], scratch: Scratch) -> None:
    """`largest` by partitioning a copy of all of `bits`."""
    work, cut, top = scratch("work", bits.size, bits.dtype), bits.size - k, np.iinfo(bits.dtype).max
    for span in spans(bits.size):
        np.bitwise_and(bits[span], top, out=work[span])
    work.partition(cut)
    limit = work[cut]
    ties = sum(int(np.count_nonzero(work[cut:][span] == limit)) for span in spans(k))
    at = 0
    for span in spans(bits.size):
        part = np.bitwise_and(bits[span], top, out=work[: span.stop - span.start])
        mask = np.greater(part, limit, out=scratch("mask", part.size, np.bool_))
        if ties:
            equal = np.flatnonzero(part == limit)[:ties]
            mask[equal] = True
            ties -= equal.size
        here = np.flatnonzero(mask)
        out[at : at + here.size] = np.add(here, span.start, out=here)
        at += here.size
