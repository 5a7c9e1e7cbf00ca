"""Top-k sparsification: the exact k largest entries of each tensor, without sorting the tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Compressor, Count, Fraction, Payload, Shape, Stream, Vector
from p2psim.registry import find, plugin
from p2psim.vectors import CHUNK, PART, Scratch, TensorCodec, check_keep_or_k, chunks, kept_entries

STEP = 61  # one entry in 61 is sampled; a prime, so that it divides no common row length


@plugin("compressor", "top-k", source="Stich, Cordonnier & Jaggi 2018, definition 2.2")
class TopK(TensorCodec):
    """C(x) keeps the k entries of largest magnitude (ties: lowest index), the others become 0.

    k per tensor of m entries is `k`, or max(1, floor(m keep)); contraction >= k / m. The compressor
    `values` encodes the kept values (affine-8: 5k + 8 bytes per tensor).

    Payload: the kept values of all tensors as `values` encodes them, then all their indices
    within their tensors, ascending, as int32: 8k bytes per tensor (12k in float64).
    """

    keep: Fraction | None = None
    k: Count | None = None
    per: Literal["tensor", "vector"] = "tensor"
    values: Compressor = cast(Any, "identity")

    def __post_init__(self) -> None:
        check_keep_or_k(self.keep, self.k)
        if isinstance(self.values, str):  # constructed in Python, not from an experiment file
            self.values = find("compressor", self.values, Path())()

    def bind(self, shapes: Sequence[Shape], stream: Stream) -> None:
        super().bind(shapes, stream)
        self.counts = [kept_entries(m, self.keep, self.k) for m in self.sizes]
        self.total = sum(self.counts)
        self.values.bind([(k,) for k in self.counts], stream)

    def max_bytes(self, d: int, itemsize: int = 4) -> int:
        self.check_size(d)
        return self.values.max_bytes(self.total, itemsize) + 4 * self.total

    def published(self) -> tuple[float, str] | None:
        """Return the bytes of a message by Aketi et al. 2022: 6 for each value sent, and 3.

        With values of fewer bits the paper scales all of it, as it scales a dense message. None
        where it has no count for `values`.
        """
        if not hasattr(self.values, "published"):
            return None
        dense = 4.0 * (self.total + 1)
        scale = self.values.published()[0] / dense
        formula = f"(6 x {self.total:,} + 3)"
        return scale * (6 * self.total + 3), formula if scale == 1 else f"{scale:g} {formula}"

    def encode(self, v: Vector, out: Payload) -> int:
        self.check_buffer(v, out)
        values = self.scratch("values", self.total, v.dtype)
        index: NDArray[np.int32] = self.scratch("index", self.total, np.int32)
        start = 0
        for x, k in zip(self.tensors(v), self.counts, strict=True):
            indices = index[start : start + k]
            select_largest(x, k, indices, self.scratch)
            gather(x, indices, values[start : start + k], self.scratch)
            start += k
        # NaN and infinity are ordered above all numbers and are therefore kept: the compressor
        # `values` receives them and raises FloatingPointError.
        used = self.values.encode(values, out)
        out[used : used + index.nbytes] = index.view(np.uint8)
        return used + index.nbytes

    def decode(self, payload: Payload, out: Vector) -> None:
        self.check_size(out.size)
        split = payload.size - 4 * self.total
        if split < 0:
            raise ValueError(f"damaged payload: {payload.size} bytes hold no {self.total} indices")
        values = self.scratch("values", self.total, out.dtype)
        index = self.scratch("index", self.total, np.int32)
        self.values.decode(payload[:split], values)
        index.view(np.uint8)[:] = payload[split:]
        out.fill(0)
        start = 0
        for x, k in zip(self.tensors(out), self.counts, strict=True):
            scatter(values[start : start + k], index[start : start + k], x, self.scratch)
            start += k


def gather(x: Vector, index: NDArray[np.int32], out: Vector, scratch: Scratch) -> None:
    """Compute out = x[index], in chunks because NumPy converts indices to 64 bits."""
    for chunk in chunks(index.size, PART):
        wide = scratch("wide", chunk.stop - chunk.start, np.intp)
        np.copyto(wide, index[chunk])
        np.take(x, wide, out=out[chunk], mode="clip")


def scatter(values: Vector, index: NDArray[np.int32], x: Vector, scratch: Scratch) -> None:
    """Assign x[index] = values; ValueError if the indices do not ascend or are outside x."""
    for chunk in chunks(index.size, PART):
        wide = scratch("wide", chunk.stop - chunk.start, np.intp)
        np.copyto(wide, index[chunk])
        last = index[chunk.start - 1] if chunk.start else -1
        if wide[0] <= last or wide[-1] >= x.size or not (wide[1:] > wide[:-1]).all():
            raise ValueError(f"damaged payload: indices are not ascending from 0 to {x.size - 1}")
        x[wide] = values[chunk]


def select_largest(x: Vector, k: int, out: NDArray[np.int32], scratch: Scratch) -> None:
    """Write the indices of the k largest magnitudes of x into out (k,), ascending.

    Of equal magnitudes the lowest index is taken.
    """
    if k >= x.size:
        for chunk in chunks(k, PART):
            out[chunk] = np.arange(chunk.start, chunk.stop)
        return
    # Without the sign bit, floats are ordered like the integers of the same bits, with infinity
    # above all numbers and NaN above infinity. The order is total, and entries that are not finite
    # are selected first.
    bits = x.view(np.int32 if x.itemsize == 4 else np.int64)
    threshold = sample_threshold(bits, k, scratch)
    count = 0 if threshold is None else collect_candidates(bits, threshold, k, scratch)
    if count < k:
        partition_largest(bits, k, out, scratch)
        return
    partition_largest(scratch("magnitude", count, bits.dtype), k, out, scratch)
    gather(scratch("position", count, np.int32), out, out, scratch)


def sample_threshold(bits: Vector, k: int, scratch: Scratch) -> Any:
    """Return a magnitude that probably somewhat more than k entries reach, or None.

    It is estimated from a sample; None if a sample does not pay off.
    """
    sample = bits[::STEP]
    # Four standard deviations of the sample's count above k: too few candidates are rare, and
    # their number stays close to k.
    rank = int(k / STEP + 4 * math.sqrt(k / STEP) + 4)
    if bits.size < PART or 2 * rank > sample.size:
        return None
    magnitudes = scratch("sample", sample.size, bits.dtype)
    np.bitwise_and(sample, np.iinfo(bits.dtype).max, out=magnitudes)
    magnitudes.partition(sample.size - rank)
    return magnitudes[sample.size - rank]


def collect_candidates(bits: Vector, threshold: Any, k: int, scratch: Scratch) -> int:
    """Collect position and magnitude of all entries that reach `threshold`; return their number.

    Candidates are written into the scratch arrays "position" and "magnitude". Return 0 if they
    exceed the limit of 2k + PART entries.
    """
    capacity, count, top = min(bits.size, 2 * k + PART), 0, np.iinfo(bits.dtype).max
    position = scratch("position", capacity, np.int32)
    magnitude = scratch("magnitude", capacity, bits.dtype)
    parts = scratch("part", min(bits.size, CHUNK), bits.dtype)
    below, real = scratch("mask", parts.size, np.bool_), np.dtype(f"f{bits.itemsize}")
    for chunk in chunks(bits.size):
        part = np.bitwise_and(bits[chunk], top, out=parts[: chunk.stop - chunk.start])
        # NumPy compares floats faster than integers. NaN is not below the threshold, so it remains
        # a candidate.
        mask = np.less(part.view(real), threshold.view(real), out=below[: part.size])
        (indices,) = np.logical_not(mask, out=mask).nonzero()
        end = count + indices.size
        if end > capacity:
            return 0
        np.take(part, indices, out=magnitude[count:end], mode="clip")
        position[count:end] = np.add(indices, chunk.start, out=indices)
        count = end
    return count


def partition_largest(bits: Vector, k: int, out: NDArray[np.int32], scratch: Scratch) -> None:
    """Select as `select_largest` does, by partitioning a copy of all of `bits`."""
    work, cut, top = scratch("work", bits.size, bits.dtype), bits.size - k, np.iinfo(bits.dtype).max
    for chunk in chunks(bits.size):
        np.bitwise_and(bits[chunk], top, out=work[chunk])
    work.partition(cut)
    limit = work[cut]
    # Entries equal to the k-th largest magnitude that are to be kept.
    ties = sum(int(np.count_nonzero(work[cut:][chunk] == limit)) for chunk in chunks(k))
    start = 0
    for chunk in chunks(bits.size):
        part = np.bitwise_and(bits[chunk], top, out=work[: chunk.stop - chunk.start])
        mask = np.greater(part, limit, out=scratch("mask", part.size, np.bool_))
        if ties:
            equal = np.flatnonzero(part == limit)[:ties]
            mask[equal] = True
            ties -= equal.size
        indices = np.flatnonzero(mask)
        out[start : start + indices.size] = np.add(indices, chunk.start, out=indices)
        start += indices.size
