"""Quantization to eight bits per entry, on an affine grid from the minimum to the maximum."""

from __future__ import annotations

from typing import Any

import numpy as np

from p2psim.base import Payload, Vector
from p2psim.registry import plugin
from p2psim.vectors import (
    CHUNK,
    TensorCodec,
    alignment_offset,
    chunks,
    not_finite,
    read_numbers,
    write_numbers,
)

FLOOR = 1e-8  # the smallest grid step: avoids a division by zero for a constant tensor
STRIDE = 2 * CHUNK  # each pass works in place in one array, so a larger chunk fits in the cache
# For each float type: the integer type of the same width, and the smallest float from which on all
# floats are integers.
MAGIC: dict[str, tuple[Any, Any]] = {
    "f": (np.int32, np.float32(2**23)),
    "d": (np.int64, np.float64(2**52)),
}


@plugin("compressor", "affine-8", source="Aketi, Kodge & Roy 2022")
class Affine8(TensorCodec):
    """q = round((x - min) / sigma), sigma = max((max - min) / 255, 1e-8); C(x) = q sigma + min.

    Rounding is to nearest, ties to even; the error is at most sigma / 2 (plus the rounding of the
    float type). q needs no separate clamp to 0..255: float operations are monotone, so
    (x - min) / sigma lies between 0 and (max - min) / sigma <= 255.0001.

    Payload per tensor: min, sigma, then q as m bytes: m + 8 bytes (m + 16 in float64).
    """

    def nbytes(self, m: int, itemsize: int) -> int:
        return m + 2 * itemsize

    def published(self) -> tuple[float, str]:
        """Return the bytes of a message by Aketi et al. 2022: a quarter of 32-bit entries."""
        return self.d + 1.0, "(d + 1)"

    def pack(self, x: Vector, out: Payload) -> int:
        low, high = (x.min(), x.max()) if x.size else (x.dtype.type(0), x.dtype.type(0))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise not_finite(self)
        overflow = not np.isfinite(high - low)
        sigma = high / 255 - low / 255 if overflow else max((high - low) / 255, x.dtype.type(FLOOR))
        used = write_numbers(out, x.dtype, low, sigma)
        if overflow:  # max - min is no float: halve all terms, which changes no quotient
            low, sigma = low / 2, sigma / 2
        self.quantize(x, low, sigma, overflow, out[used:])
        return used + x.size

    def quantize(self, x: Vector, low: Any, sigma: Any, halved: bool, codes: Payload) -> None:
        """Compute codes = round((x - low) / sigma); with `halved`, low and sigma are half of these.

        codes: (m,), one byte per entry of x.
        """
        # From 2^23 (2^52) on all floats are integers: adding this number rounds, and the low byte
        # of the sum is q. This is faster than rint and a cast and has the same result.
        integer, magic = MAGIC[x.dtype.char]
        grid = self.scratch("grid", min(x.size, STRIDE), x.dtype)
        for chunk in chunks(x.size, STRIDE, alignment_offset(x)):
            part: Vector = x[chunk]
            q = grid[: part.size]
            if halved:
                part = np.multiply(part, x.dtype.type(0.5), out=q)
            np.subtract(part, low, out=q)
            np.divide(q, sigma, out=q)
            np.add(q, magic, out=q)
            np.copyto(codes[chunk], q.view(integer), casting="unsafe")

    def unpack(self, payload: Payload, x: Vector) -> None:
        low, sigma = read_numbers(payload, x.dtype, 2)
        q = payload[2 * x.itemsize :]
        overflow = not np.isfinite(255 * sigma + low)
        if overflow:
            low, sigma = low / 2, sigma / 2
        for chunk in chunks(x.size, STRIDE, alignment_offset(x)):
            part = x[chunk]
            np.copyto(part, q[chunk], casting="unsafe")
            np.multiply(part, sigma, out=part)
            np.add(part, low, out=part)
            if overflow:
                half = np.finfo(x.dtype).max / 2
                np.multiply(np.clip(part, -half, half, out=part), x.dtype.type(2), out=part)
