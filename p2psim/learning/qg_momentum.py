"""Quasi-global momentum: momentum of the mixed models' movement, not of the local gradients."""

from __future__ import annotations

import numpy as np

from p2psim.base import NonNegative, Vector
from p2psim.learning.optimizer import Descent, check_fraction
from p2psim.registry import plugin
from p2psim.vectors import add_scaled


@plugin("optimizer", "qg-momentum", "Lin, Karimireddy, Stich & Jaggi 2021, Algorithm 1")
class QuasiGlobalMomentum(Descent):
    """QG-DSGDm, and with `nesterov` QG-DSGDm-N; m_i is the momentum buffer (0 at first).

    g' = g + wd x_i^t,  v = beta m_i + g'
    direction = v (QG-DSGDm) or g' + beta v (QG-DSGDm-N),  x_i^{t+1/2} = x_i^t - lr direction
    then gossip of any kind leads to x_i^{t+1}, and
    m_i <- mu m_i + (1 - mu) (x_i^t - x_i^{t+1}) / lr

    x_i is the model; with push-sum it is z_i. All T local steps of a round use the same m_i, and
    the update of m_i divides by the sum of their learning rates. beta = 0 is SGD without momentum.
    No traffic.
    """

    beta: NonNegative = 0.9
    mu: NonNegative = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_fraction(beta=self.beta, mu=self.mu)

    def start(self, x: Vector) -> None:
        super().start(x)
        self.m = np.zeros_like(x)

    def direction(self, g: Vector, x: Vector) -> Vector:
        g = self.regularized(g, x)
        v = add_scaled(g, self.beta, self.m, out=self.buffer("v", x))
        return add_scaled(g, self.beta, v, out=v) if self.nesterov else v

    def mixed(self, before: Vector, after: Vector, rate: float) -> None:
        step = np.subtract(before, after, out=self.buffer("v", before))
        np.multiply(self.m, self.mu, out=self.m)
        add_scaled(self.m, (1 - self.mu) / rate, step, out=self.m)
