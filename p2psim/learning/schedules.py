"""Learning-rate schedules: a factor on lr as a function of the epoch, a real number from 0."""

from __future__ import annotations

import math
from dataclasses import field

from p2psim.base import Positive, Unit
from p2psim.registry import plugin


@plugin("schedule", "constant")
class Constant:
    """factor = 1."""

    def factor(self, epoch: float, epochs: float) -> float:
        return 1.0


@plugin("schedule", "steps")
class Steps:
    """factor = by^k with k the number of epochs in `at` that have been reached."""

    at: list[Positive] = field(default_factory=lambda: [100.0, 150.0])
    by: Positive = 0.1

    def factor(self, epoch: float, epochs: float) -> float:
        return float(self.by ** sum(epoch >= milestone for milestone in self.at))


@plugin("schedule", "cosine", "Loshchilov & Hutter 2017, eq. (5)")
class Cosine:
    """factor = last + (1 - last)(1 + cos(pi epoch / epochs)) / 2."""

    last: Unit = 0.0

    def factor(self, epoch: float, epochs: float) -> float:
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * epoch / epochs)) / 2
