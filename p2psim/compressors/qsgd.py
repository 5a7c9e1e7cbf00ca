"""Random rounding to a few levels of the tensor's norm."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from p2psim.base import Payload, Vector
from p2psim.registry import plugin
from p2psim.vectors import PART, TensorCodec, get, not_finite, put, spans


@plugin("compressor", "qsgd", source="Alistarh, Grubic, Li, Tomioka & Vojnovic 2017, section 3.1")
class QSGD(TensorCodec):
    """C(x) = sign(x) ||x||_2 xi / s, xi = s |x| / ||x||_2 rounded at random, s = 2^b - 1 levels.

    Unbiased, E||C(x)||^2 <= tau ||x||^2 with tau = 1 + min(m / s^2, sqrt(m) / s). With
    `biased` the result is divided by tau, which makes it a contraction 1 / tau.

    Payload per tensor: the norm, then for every 2^14 entries (the last time: for the rest) the
    plane of their sign bits followed by the planes of the b level bits, highest first, without
    gaps: ceil(m (b + 1) / 8) + 4 bytes (+ 8 in float64).
    """

    bits: Annotated[int, Meta(ge=1, le=8)] = 4
    biased: bool = False
    per: Literal["tensor", "vector"] = "tensor"

    def nbytes(self, m: int, itemsize: int) -> int:
        return (m * (self.bits + 1) + 7) // 8 + itemsize

    def pack(self, x: Vector, out: Payload) -> int:
        random = self.stream.next()
        norm = self.norm(x)
        used = put(out, x.dtype, norm)
        for span in spans(x.size, PART):
            n = span.stop - span.start
            planes = self.scratch("planes", (self.bits + 1) * n, np.uint8).reshape(-1, n)
            np.signbit(x[span], out=planes[0].view(np.bool_))
            level = self.levels(x[span], norm, random)
            for j in range(self.bits):
                np.bitwise_and(level, 1 << (self.bits - 1 - j), out=planes[1 + j])
            packed = np.packbits(planes)  # a byte that is not zero is a one
            out[used : used + packed.size] = packed
            used += packed.size
        return used

    def levels(self, x: Vector, norm: Any, random: np.random.Generator) -> Payload:
        """xi of every entry: floor(y), or one more with probability y - floor(y)."""
        s = (1 << self.bits) - 1
        y, u = (self.scratch(name, x.size, x.dtype) for name in "yu")
        random.random(dtype=x.dtype, out=u)
        np.divide(np.abs(x, out=y), norm if norm else 1, out=y)
        np.minimum(np.multiply(y, s, out=y), s, out=y)  # the norm is rounded: y may exceed s
        level: Payload = self.scratch("level", x.size, np.uint8)
        np.copyto(level, y, casting="unsafe")
        up = np.less(u, np.subtract(y, level, out=y), out=self.scratch("up", x.size, np.bool_))
        np.add(level, up.view(np.uint8), out=level)
        return level

    def norm(self, x: Vector) -> Any:
        """||x||_2 in x's float type; scaled by a power of two, so that no square is lost."""
        peak = float(np.maximum(-x.min(), x.max())) if x.size else 0.0
        if not math.isfinite(peak):
            raise not_finite(self)
        limit = int(np.finfo(x.dtype).maxexp) - 2
        exponent = max(-limit, min(limit, math.frexp(peak)[1]))
        total, scale = 0.0, x.dtype.type(math.ldexp(1.0, -exponent))
        for span in spans(x.size, PART):
            y = np.multiply(x[span], scale, out=self.scratch("y", span.stop - span.start, x.dtype))
            total += float(np.square(y, out=y).sum())
        norm = np.ldexp(x.dtype.type(math.sqrt(total)), exponent)
        if not np.isfinite(norm):
            raise FloatingPointError(f"qsgd: the norm of the vector is no {x.dtype} number")
        return norm

    def unpack(self, payload: Payload, x: Vector) -> None:
        s, planes, at = (1 << self.bits) - 1, self.bits + 1, x.itemsize
        tau = 1 + min(x.size / s**2, math.sqrt(x.size) / s) if self.biased else 1.0
        scale = get(payload, x.dtype)[0] / x.dtype.type(tau)
        for span in spans(x.size, PART):
            count = planes * (span.stop - span.start)
            end = at + (count + 7) // 8
            sign, level, *rest = np.unpackbits(payload[at:end], count=count).reshape(planes, -1)
            for plane in rest:
                np.bitwise_or(np.add(level, level, out=level), plane, out=level)
            part, at = x[span], end
            factor = self.scratch("factor", part.size, x.dtype)
            np.copyto(factor, sign)
            np.multiply(
                np.add(np.multiply(factor, -2, out=factor), 1, out=factor), scale, out=factor
            )
            np.copyto(part, level)
            np.multiply(np.divide(part, s, out=part), factor, out=part)
