"""Random sparsification: k random entries of each tensor, sent with the seed of their indices."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Count, Fraction, Payload, Vector
from p2psim.registry import plugin
from p2psim.vectors import PART, TensorCodec, check_keep_or_k, chunks, kept_entries, not_finite

SEED = 8  # bytes


@plugin("compressor", "random-k", source="Stich, Cordonnier & Jaggi 2018, definition 2.2")
class RandomK(TensorCodec):
    """C(x) keeps k of a tensor's m entries, drawn uniformly without replacement; others become 0.

    k is `k`, or max(1, floor(m keep)). E||C(x) - x||^2 = (1 - k / m) ||x||^2. With `unbiased` the
    kept entries are multiplied by m / k: E C(x) = x, but C is no contraction.

    Payload per tensor: the seed (64 bits) from which the receiver draws the same indices, then
    the k values by ascending index: 4k + 8 bytes (8k + 8 in float64).
    """

    keep: Fraction | None = None
    k: Count | None = None
    per: Literal["tensor", "vector"] = "tensor"
    unbiased: bool = False

    def __post_init__(self) -> None:
        check_keep_or_k(self.keep, self.k)

    def nbytes(self, m: int, itemsize: int) -> int:
        return SEED + kept_entries(m, self.keep, self.k) * itemsize

    def pack(self, x: Vector, out: Payload) -> int:
        seed, k = self.stream.seed(), kept_entries(x.size, self.keep, self.k)
        self.check_finite(x)
        out[:SEED] = np.array([seed], np.uint64).view(np.uint8)
        used, mask = SEED, self.draw(seed, x.size, k)
        for chunk in chunks(x.size, PART):
            values = x[chunk][mask[chunk]]
            if self.unbiased:
                np.multiply(values, x.dtype.type(x.size / k), out=values)
                if not np.isfinite(values).all():
                    raise not_finite(self)
            out[used : used + values.nbytes] = values.view(np.uint8)
            used += values.nbytes
        return used

    def unpack(self, payload: Payload, x: Vector) -> None:
        seed = int(payload[:SEED].copy().view(np.uint64)[0])
        used, mask = SEED, self.draw(seed, x.size, kept_entries(x.size, self.keep, self.k))
        for chunk in chunks(x.size, PART):
            end = used + int(np.count_nonzero(mask[chunk])) * x.itemsize
            part = x[chunk]
            part.fill(0)
            part[mask[chunk]] = payload[used:end].view(x.dtype)
            used = end

    def draw(self, seed: int, m: int, k: int) -> NDArray[Any]:
        """Return a mask (m,) that is True at k random entries; all sets of k are equally likely.

        Only integers are drawn, so that every machine draws the same set.
        """
        random = np.random.Generator(np.random.Philox(seed))
        mask: NDArray[Any] = self.scratch("mask", m, np.bool_)
        mask.fill(False)
        # A draw that hits an entry drawn before is repeated, which treats all entries alike. If k
        # exceeds m / 2, the entries to leave out are drawn instead: at most half of the entries are
        # drawn, so that a draw is repeated with probability at most 1/2.
        missing = draws = min(k, m - k)
        while missing:
            for chunk in chunks(missing, PART):
                mask[random.integers(0, m, chunk.stop - chunk.start)] = True
            missing = draws - int(np.count_nonzero(mask))
        return np.logical_not(mask, out=mask) if draws < k else mask
