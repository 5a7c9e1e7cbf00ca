"""Scaled sign: one bit per entry and the mean magnitude of the tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from p2psim.base import Payload, Vector
from p2psim.registry import plugin
from p2psim.vectors import CHUNK, TensorCodec, chunks, read_numbers, write_numbers

# Row p holds the signs (+1, -1) of the eight entries that byte p encodes, first entry first.
SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 2.0 - 1.0


@plugin("compressor", "sign", source="Karimireddy, Rebjock, Stich & Jaggi 2019, Algorithm 1")
class Sign(TensorCodec):
    """C(x) = sign(x) ||x||_1 / m, with sign(0) = +1; contraction ||x||_1^2 / (m ||x||_2^2).

    Payload per tensor: the scale ||x||_1 / m, then a bit per entry (1: not negative), first entry
    in the highest bit: ceil(m / 8) + 4 bytes (+ 8 in float64).
    """

    def nbytes(self, m: int, itemsize: int) -> int:
        return (m + 7) // 8 + itemsize

    def pack(self, x: Vector, out: Payload) -> int:
        width = min(x.size, CHUNK)
        sums = self.scratch("sums", width, x.dtype)
        sums.fill(0)
        used = x.itemsize
        for chunk in chunks(x.size):
            part, n = x[chunk], chunk.stop - chunk.start
            # Adding the chunks entry by entry is faster than summing each one, and the order of
            # summation is fixed.
            np.add(sums[:n], np.abs(part, out=self.scratch("abs", n, x.dtype)), out=sums[:n])
            bits = np.packbits(np.greater_equal(part, 0, out=self.scratch("bits", n, np.bool_)))
            out[used : used + bits.size] = bits
            used += bits.size
        total = sums.sum(dtype=np.float64)
        mean = total / max(x.size, 1) if np.isfinite(total) else self.large_mean(x)
        write_numbers(out, x.dtype, mean)
        return used

    def large_mean(self, x: Vector) -> Any:
        """Return ||x||_1 / m if the sum overflows although every entry is finite.

        Every entry is divided by m before the sum. FloatingPointError if an entry is not finite.
        """
        self.check_finite(x)
        total = 0.0
        for chunk in chunks(x.size):
            part = np.abs(x[chunk], out=self.scratch("abs", chunk.stop - chunk.start, x.dtype))
            total += float(np.divide(part, x.size, out=part).sum(dtype=np.float64))
        return min(total, float(np.finfo(x.dtype).max))

    def unpack(self, payload: Payload, x: Vector) -> None:
        scale = read_numbers(payload, x.dtype)
        table = self.scratch("table", SIGNS.size, x.dtype).reshape(SIGNS.shape)
        np.multiply(SIGNS, scale, out=table, casting="same_kind")
        whole, rest = divmod(x.size, 8)
        rows, codes = x[: 8 * whole].reshape(whole, 8), payload[x.itemsize :]
        for chunk in chunks(whole, CHUNK // 8):
            index = self.scratch("index", chunk.stop - chunk.start, np.intp)
            np.copyto(index, codes[chunk])
            # mode="raise" would decode into a copy first, and no byte is outside the table.
            np.take(table, index, axis=0, out=rows[chunk], mode="clip")
        if rest:
            x[8 * whole :] = table[codes[-1], :rest]
