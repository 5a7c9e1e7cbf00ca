"""Stochastic gradient descent with momentum, as torch.optim.SGD defines it."""

from __future__ import annotations

import numpy as np

from p2psim.base import NonNegative, Schedule, Vector
from p2psim.registry import plugin


@plugin("optimizer", "sgd", "Sutskever, Martens, Dahl & Hinton 2013")
class SGD:
    """g' = g + wd x;  v <- mu v + g';  direction = g' + mu v (Nesterov) or v (heavy ball).

    x <- x - lr direction: lr stands outside v, so a drop of lr rescales old momentum too. Weight
    decay acts on every tensor. `warmup` epochs raise lr linearly from lr/10.
    """

    lr: NonNegative = 0.1
    momentum: NonNegative = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    schedule: Schedule = "constant"  # type: ignore[assignment]
    warmup: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.momentum >= 1:
            raise ValueError(f"momentum = {self.momentum}: give a number >= 0 and < 1")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs momentum > 0; set momentum, such as 0.9")

    def start(self, x: Vector) -> None:
        self.v = np.zeros_like(x)
        self.scratch, self.look = np.empty_like(x), np.empty_like(x)

    def direction(self, g: Vector, x: Vector) -> Vector:
        if self.weight_decay:
            np.multiply(x, self.weight_decay, out=self.scratch)
            g = np.add(self.scratch, g, out=self.scratch)
        if not self.momentum:
            return g
        self.v *= self.momentum
        self.v += g
        if not self.nesterov:
            return self.v
        np.multiply(self.v, self.momentum, out=self.look)
        return np.add(self.look, g, out=self.look)

    def rate(self, epoch: float, epochs: float) -> float:
        ramp = min(1.0, 0.1 + 0.9 * epoch / self.warmup) if self.warmup else 1.0
        return self.lr * ramp * self.schedule.factor(epoch, epochs)
