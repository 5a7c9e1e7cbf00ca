"""Entries of each tensor drawn at random; only the seed of the draw travels with them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Count, Fraction, Payload, Vector
from p2psim.registry import plugin
from p2psim.vectors import PART, TensorCodec, kept, not_finite, one_of, spans

SEED = 8  # bytes


@plugin("compressor", "random-k", source="Stich, Cordonnier & Jaggi 2018, definition 2.2")
class RandomK(TensorCodec):
    """C(x) keeps k of a tensor's m entries, drawn uniformly without replacement; others become 0.

    k is `k`, or max(1, floor(m keep)). E||C(x) - x||^2 = (1 - k / m) ||x||^2. With `unbiased` what
    is kept is multiplied by m / k: E C(x) = x, but no contraction.

    Payload per tensor: the seed (64 bits) from which the receiver draws the same indices, then
    the k values by ascending index: 4k + 8 bytes (8k + 8 in float64).
    """

    keep: Fraction | None = None
    k: Count | None = None
    per: Literal["tensor", "vector"] = "tensor"
    unbiased: bool = False

    def __post_init__(self) -> None:
        one_of(self.keep, self.k)

    def nbytes(self, m: int, itemsize: int) -> int:
        return SEED + kept(m, self.keep, self.k) * itemsize

    def pack(self, x: Vector, out: Payload) -> int:
        seed, k = self.stream.seed(), kept(x.size, self.keep, self.k)
        self.finite(x)
        out[:SEED] = np.array([seed], np.uint64).view(np.uint8)
        used, mask = SEED, self.draw(seed, x.size, k)
        for span in spans(x.size, PART):
            chosen = x[span][mask[span]]
            if self.unbiased:
                np.multiply(chosen, x.dtype.type(x.size / k), out=chosen)
                if not np.isfinite(chosen).all():
                    raise not_finite(self)
            out[used : used + chosen.nbytes] = chosen.view(np.uint8)
            used += chosen.nbytes
        return used

    def unpack(self, payload: Payload, x: Vector) -> None:
        seed = int(payload[:SEED].copy().view(np.uint64)[0])
        used, mask = SEED, self.draw(seed, x.size, kept(x.size, self.keep, self.k))
        for span in spans(x.size, PART):
            end = used + int(np.count_nonzero(mask[span])) * x.itemsize
            part = x[span]
            part.fill(0)
            part[mask[span]] = payload[used:end].view(x.dtype)
            used = end

    def draw(self, seed: int, m: int, k: int) -> NDArray[Any]:
        """True at k of m entries, every such set equally likely; integers only, so portable."""
        random = np.random.Generator(np.random.Philox(seed))
        mask: NDArray[Any] = self.scratch("mask", m, np.bool_)
        mask.fill(False)
        # Drawing again for those that hit a drawn entry treats all entries alike. Above one half
        # the left out are drawn instead, so that a draw hits an old one less often than not.
        missing = fewer = min(k, m - k)
        while missing:
            for span in spans(missing, PART):
                mask[random.integers(0, m, span.stop - span.start)] = True
            missing = fewer - int(np.count_nonzero(mask))
        return np.logical_not(mask, out=mask) if fewer < k else mask
