"""Random rounding to a few levels between 0 and the norm of a tensor (QSGD)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from p2psim.base import Payload, Vector
from p2psim.registry import plugin
from p2psim.vectors import PART, TensorCodec, chunks, not_finite, read_numbers, write_numbers


@plugin("compressor", "qsgd", source="Alistarh, Grubic, Li, Tomioka & Vojnovic 2017, section 3.1")
class QSGD(TensorCodec):
    """C(x) = sign(x) ||x||_2 xi / s, with the level xi in 0..s, s = 2^b - 1, for b = bits.

    xi is s |x| / ||x||_2, rounded at random so that C is unbiased. For a tensor of m entries,
    E||C(x)||^2 <= tau ||x||^2 with tau = 1 + min(m / s^2, sqrt(m) / s). With `biased` the receiver
    divides by tau; C is then a contraction with factor 1 / tau.

    Payload per tensor: the norm, then for every 2^14 entries (the last block may be shorter) the
    plane of their sign bits followed by the planes of the b level bits, highest first, without
    gaps: ceil(m (b + 1) / 8) bytes and the norm, 4 bytes in float32 and 8 in float64.
    """

    bits: Annotated[int, Meta(ge=1, le=8)] = 4
    biased: bool = False
    per: Literal["tensor", "vector"] = "tensor"

    def nbytes(self, m: int, itemsize: int) -> int:
        return (m * (self.bits + 1) + 7) // 8 + itemsize

    def pack(self, x: Vector, out: Payload) -> int:
        random = self.stream.next()
        norm = self.norm(x)
        used = write_numbers(out, x.dtype, norm)
        for chunk in chunks(x.size, PART):
            n = chunk.stop - chunk.start
            planes = self.scratch("planes", (self.bits + 1) * n, np.uint8).reshape(-1, n)
            np.signbit(x[chunk], out=planes[0].view(np.bool_))
            level = self.levels(x[chunk], norm, random)
            for j in range(self.bits):
                np.bitwise_and(level, 1 << (self.bits - 1 - j), out=planes[1 + j])
            packed = np.packbits(planes)  # packbits takes every nonzero byte as a one
            out[used : used + packed.size] = packed
            used += packed.size
        return used

    def levels(self, x: Vector, norm: Any, random: np.random.Generator) -> Payload:
        """Return the level xi of every entry of a chunk x: floor(y), or floor(y) + 1.

        y = s |x| / norm with the norm of the whole tensor; y - floor(y) is the probability of the
        larger one. Shape (x.size,), uint8, valid until the next call.
        """
        s = (1 << self.bits) - 1
        y, u = (self.scratch(name, x.size, x.dtype) for name in "yu")
        random.random(dtype=x.dtype, out=u)
        # If the norm is 0, all entries are 0 and so are all quotients.
        np.divide(np.abs(x, out=y), norm if norm else 1, out=y)
        np.minimum(np.multiply(y, s, out=y), s, out=y)  # the norm is rounded, so y may exceed s
        level: Payload = self.scratch("level", x.size, np.uint8)
        np.copyto(level, y, casting="unsafe")
        up = np.less(u, np.subtract(y, level, out=y), out=self.scratch("up", x.size, np.bool_))
        np.add(level, up.view(np.uint8), out=level)
        return level

    def norm(self, x: Vector) -> Any:
        """Return ||x||_2 in the float type of x.

        x is scaled by a power of two first, so that no square overflows, and none that counts is 0.
        FloatingPointError if x or its norm is not finite.
        """
        peak = float(np.maximum(-x.min(), x.max())) if x.size else 0.0
        if not math.isfinite(peak):
            raise not_finite(self)
        # Within these limits, both the scale and its inverse are finite and not 0.
        limit = int(np.finfo(x.dtype).maxexp) - 2
        exponent = max(-limit, min(limit, math.frexp(peak)[1]))
        total, scale = 0.0, x.dtype.type(math.ldexp(1.0, -exponent))
        for chunk in chunks(x.size, PART):
            y = np.multiply(
                x[chunk], scale, out=self.scratch("y", chunk.stop - chunk.start, x.dtype)
            )
            total += float(np.square(y, out=y).sum())
        norm = np.ldexp(x.dtype.type(math.sqrt(total)), exponent)
        if not np.isfinite(norm):
            raise FloatingPointError(f"qsgd: the norm of the vector does not fit in {x.dtype}")
        return norm

    def unpack(self, payload: Payload, x: Vector) -> None:
        s, planes, start = (1 << self.bits) - 1, self.bits + 1, x.itemsize
        tau = 1 + min(x.size / s**2, math.sqrt(x.size) / s) if self.biased else 1.0
        scale = read_numbers(payload, x.dtype)[0] / x.dtype.type(tau)
        for chunk in chunks(x.size, PART):
            count = planes * (chunk.stop - chunk.start)
            end = start + (count + 7) // 8
            # The level of an entry is put together from its bits, highest first.
            sign, level, *rest = np.unpackbits(payload[start:end], count=count).reshape(planes, -1)
            for plane in rest:
                np.bitwise_or(np.add(level, level, out=level), plane, out=level)
            part, start = x[chunk], end
            factor = self.scratch("factor", part.size, x.dtype)
            np.copyto(factor, sign)
            np.multiply(
                np.add(np.multiply(factor, -2, out=factor), 1, out=factor), scale, out=factor
            )
            np.copyto(part, level)
            np.multiply(np.divide(part, s, out=part), factor, out=part)
