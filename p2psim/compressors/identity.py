"""No compression."""

from __future__ import annotations

import numpy as np

from p2psim.base import Payload, Vector
from p2psim.registry import plugin
from p2psim.vectors import TensorCodec


@plugin("compressor", "identity")
class Identity(TensorCodec):
    """C(x) = x, bit for bit; contraction 1.

    Payload: the m entries of each tensor, 4m bytes (8m in float64).
    """

    def nbytes(self, m: int, itemsize: int) -> int:
        return m * itemsize

    def published(self) -> tuple[float, str]:
        """Return the bytes of a message by Aketi et al. 2022: d entries and a push-sum weight."""
        return 4.0 * (self.d + 1), "4 (d + 1)"

    def pack(self, x: Vector, out: Payload) -> int:
        self.check_finite(x)
        out[: x.nbytes] = x.view(np.uint8)
        return x.nbytes

    def unpack(self, payload: Payload, x: Vector) -> None:
        x.view(np.uint8)[:] = payload
