"""Stochastic gradient descent with momentum, as torch.optim.SGD defines it."""

from __future__ import annotations

import numpy as np

from p2psim.base import NonNegative, Vector
from p2psim.learning.optimizer import Descent, check_fraction
from p2psim.registry import plugin
from p2psim.vectors import add_scaled


@plugin("optimizer", "sgd", "Sutskever, Martens, Dahl & Hinton 2013")
class SGD(Descent):
    """g' = g + wd x;  v <- mu v + g';  direction = g' + mu v (Nesterov) or v (heavy ball).

    x <- x - lr direction: lr is not part of v, so a drop of lr rescales old momentum too. Weight
    decay acts on every tensor, or on those whose numbers are in `decayed`, from 0 in torch's order.
    With `clip` > 0, g is first multiplied by min(1, clip / ||g||). During the first `warmup` epochs
    lr rises linearly from lr/10 or, with ramp = "flat", stays at lr/10.
    """

    momentum: NonNegative = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_fraction(momentum=self.momentum)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs momentum > 0; set momentum, such as 0.9")

    def start(self, x: Vector) -> None:
        super().start(x)
        self.v = np.zeros_like(x) if self.momentum else None

    def direction(self, g: Vector, x: Vector) -> Vector:
        g = self.regularized(g, x)
        if self.v is None:
            return g
        add_scaled(g, self.momentum, self.v, out=self.v)
        if not self.nesterov:
            return self.v
        return add_scaled(g, self.momentum, self.v, out=self.buffer("direction", x))
