"""Eight bits per entry on an affine grid between the tensor's minimum and maximum."""

from __future__ import annotations

from typing import Any

import numpy as np

from p2psim.base import Payload, Vector
from p2psim.registry import plugin
from p2psim.vectors import CHUNK, TensorCodec, get, not_finite, put, skew, spans

FLOOR = 1e-8  # smallest step: keeps a constant tensor from dividing by zero
STRIDE = 2 * CHUNK  # all work is done in place in one array, so more of it fits the cache
MAGIC: dict[str, tuple[Any, Any]] = {
    "f": (np.int32, np.float32(2**23)),
    "d": (np.int64, np.float64(2**52)),
}


@plugin("compressor", "affine-8", source="Aketi, Kodge & Roy 2022")
class Affine8(TensorCodec):
    """q = round((x - min) / sigma), sigma = max((max - min) / 255, 1e-8); C(x) = q sigma + min.

    The rounding is to nearest, ties to even; the error is at most sigma / 2 (and the rounding of
    the float type). The clamp of q to 0..255 needs no pass of its own: float operations are
    monotone, so (x - min) / sigma lies between 0 and (max - min) / sigma <= 255.0001.

    Payload per tensor: min, sigma, then q as m bytes: m + 8 bytes (m + 16 in float64).
    """

    def nbytes(self, m: int, itemsize: int) -> int:
        return m + 2 * itemsize

    def pack(self, x: Vector, out: Payload) -> int:
        low, high = (x.min(), x.max()) if x.size else (x.dtype.type(0), x.dtype.type(0))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise not_finite(self)
        wide = not np.isfinite(high - low)
        sigma = high / 255 - low / 255 if wide else max((high - low) / 255, x.dtype.type(FLOOR))
        used = put(out, x.dtype, low, sigma)
        if wide:  # max - min is no float: do all with halves, which changes no quotient
            low, sigma = low / 2, sigma / 2
        self.quantize(x, low, sigma, wide, out[used:])
        return used + x.size

    def quantize(self, x: Vector, low: Any, sigma: Any, halved: bool, codes: Payload) -> None:
        """codes = round((x - low) / sigma); with `halved`, low and sigma are half their value."""
        # Next to 2^23 (2^52) floats are integers: adding it rounds, and the low byte is q. Faster
        # than rint and a cast, with the same result.
        whole, magic = MAGIC[x.dtype.char]
        grid = self.scratch("grid", min(x.size, STRIDE), x.dtype)
        for span in spans(x.size, STRIDE, skew(x)):
            part: Vector = x[span]
            q = grid[: part.size]
            if halved:
                part = np.multiply(part, x.dtype.type(0.5), out=q)
            np.subtract(part, low, out=q)
            np.divide(q, sigma, out=q)
            np.add(q, magic, out=q)
            np.copyto(codes[span], q.view(whole), casting="unsafe")

    def unpack(self, payload: Payload, x: Vector) -> None:
        low, sigma = get(payload, x.dtype, 2)
        q = payload[2 * x.itemsize :]
        wide = not np.isfinite(255 * sigma + low)
        if wide:
            low, sigma = low / 2, sigma / 2
        for span in spans(x.size, STRIDE, skew(x)):
            part = x[span]
            np.copyto(part, q[span], casting="unsafe")
            np.multiply(part, sigma, out=part)
            np.add(part, low, out=part)
            if wide:
                half = np.finfo(x.dtype).max / 2
                np.multiply(np.clip(part, -half, half, out=part), x.dtype.type(2), out=part)
