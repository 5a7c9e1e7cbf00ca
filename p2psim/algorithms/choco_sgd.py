"""CHOCO-SGD: compressed differences to public copies."""

from typing import Literal

import numpy as np

from p2psim.base import (
    Algorithm,
    Compressor,
    Handle,
    Message,
    Neighborhood,
    NonNegative,
    Oracle,
    Vector,
)
from p2psim.registry import plugin


@plugin(
    "algorithm",
    "choco-sgd",
    "Koloskova, Stich & Jaggi 2019, Algorithm 2; Koloskova et al. 2020, Algorithm 1 (stale)",
)
class ChocoSGD(Algorithm):
    """x_hat_i is peer i's public copy (0 at first), s_i = sum_j W_ij x_hat_j.

    fresh:  x^{t+1/2} = x - lr dir,  q_i = C(x_i^{t+1/2} - x_hat_i),  x_hat_j += q_j,
            x_i^{t+1} = x_i^{t+1/2} + gamma sum_j W_ij (x_hat_j - x_hat_i)
    stale:  x_i^{t+1} = x_i^{t+1/2} + gamma sum_j W_ij (x_hat_j - x_hat_i) with the old copies,
            then q_i = C(x_i^{t+1} - x_hat_i) travels while the next gradient is computed.

    Wire: one payload of C per neighbor and consensus step.
    """

    requires = ("doubly-stochastic", "symmetric", "static")
    gamma: NonNegative = 0.5
    variant: Literal["fresh", "stale"] = "fresh"
    compressor: Compressor = "identity"  # type: ignore[assignment]

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        self.x_hat, self.s = np.zeros_like(x), np.zeros_like(x)
        self.flight: tuple[Message, Handle] | None = None

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        if self.variant == "stale":
            return self.consensus_stale(x, net)
        q = net.message(x - self.x_hat, self.compressor)
        self.x_hat += q.value
        self.s += net.mix(q)
        return x + self.gamma * (self.s - self.x_hat)

    def consensus_stale(self, x: Vector, net: Neighborhood) -> Vector:
        """The copies of the step before arrive now; the new difference sets out."""
        if self.flight:
            q, arriving = self.flight
            self.s += arriving.mix()
            self.x_hat += q.value
        x = x + self.gamma * (self.s - self.x_hat)
        q = net.message(x - self.x_hat, self.compressor)
        self.flight = q, net.post(q)
        return x
