"""Learning-rate schedules: a factor on lr as a function of the epoch, a real number from 0."""

from __future__ import annotations

import math
from dataclasses import field

from p2psim.base import Count, Fraction, Natural, Positive, Setting, Unit
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


@plugin("schedule", "exponential")
class Exponential:
    """factor = last^(epoch / epochs), which falls from 1 to `last` by equal ratios."""

    last: Fraction = 0.1

    def factor(self, epoch: float, epochs: float) -> float:
        return float(self.last ** (epoch / epochs))


@plugin("schedule", "noam", "Vaswani et al. 2017, eq. (3)")
class Noam:
    """factor = width^(-1/2) min(t^(-1/2), t warmup^(-3/2)) in local step t = 1, 2, ...

    It rises for `warmup` steps, up to (width warmup)^(-1/2). `width` is the width of the model's
    embeddings. The usual lr is 1 or 2.
    """

    width: Count
    warmup: Count = 4000

    def bind(self, setting: Setting) -> None:
        self.steps_per_epoch = setting.steps_per_epoch

    def factor(self, epoch: float, epochs: float) -> float:
        t = epoch * self.steps_per_epoch + 1
        return float(self.width**-0.5 * min(t**-0.5, t * self.warmup**-1.5))


@plugin("schedule", "plateau")
class Plateau:
    """factor = by^k with k the number of times that the validation loss has stopped falling.

    That is so after more than `patience` evaluations in a row without a new least loss. Each peer
    measures its own model on the validation samples of the data set, and has its own factor.
    """

    by: Unit = 0.2
    patience: Natural = 1

    def bind(self, setting: Setting) -> None:
        if not setting.validates:
            raise ValueError(
                "schedule 'plateau' needs validation samples, which the data set does not have; "
                "choose another schedule or another data set"
            )

    def start(self) -> None:
        self.least, self.waited, self.drops = math.inf, 0, 0

    def evaluated(self, loss: float) -> None:
        if loss < self.least:
            self.least, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.waited, self.drops = 0, self.drops + 1

    def factor(self, epoch: float, epochs: float) -> float:
        return float(self.by**self.drops)
