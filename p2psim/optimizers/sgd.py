"""Stochastic gradient descent with momentum, as torch.optim.SGD defines it."""

from __future__ import annotations

import numpy as np

from p2psim.base import NonNegative, Schedule, Vector
from p2psim.registry import plugin
from p2psim.vectors import Scratch, add_scaled


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
        self.v = np.zeros_like(x) if self.momentum else None
        self.scratch = Scratch()

    def direction(self, g: Vector, x: Vector) -> Vector:
        room = self.scratch("direction", x.size, x.dtype)
        if self.weight_decay:
            g = add_scaled(g, self.weight_decay, x, out=room)
        if self.v is None:
            return g
        add_scaled(g, self.momentum, self.v, out=self.v)
        return add_scaled(g, self.momentum, self.v, out=room) if self.nesterov else self.v

    def rate(self, epoch: float, epochs: float) -> float:
        ramp = min(1.0, 0.1 + 0.9 * epoch / self.warmup) if self.warmup else 1.0
        return self.lr * ramp * self.schedule.factor(epoch, epochs)
