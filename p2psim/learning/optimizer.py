"""What the local optimizers share: the learning rate over the run, and weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2psim.base import LearningRateSchedule, NonNegative, Vector
from p2psim.vectors import Scratch, add_scaled


@dataclass(kw_only=True, eq=False)
class Descent:
    """x <- x - rate direction(g + wd x).

    Weight decay acts on every tensor. `warmup` epochs raise lr linearly from lr/10, or with
    ramp = "flat" stay at lr/10.
    """

    lr: NonNegative = 0.1
    weight_decay: NonNegative = 0.0
    schedule: LearningRateSchedule = "constant"  # type: ignore[assignment]
    warmup: NonNegative = 0.0
    ramp: Literal["linear", "flat"] = "linear"

    def start(self, x: Vector) -> None:
        self.scratch = Scratch()

    def decayed(self, g: Vector, x: Vector) -> Vector:
        """g' = g + wd x; g itself without weight decay."""
        if not self.weight_decay:
            return g
        return add_scaled(g, self.weight_decay, x, out=self.room("decayed", x))

    def room(self, name: str, like: Vector) -> Vector:
        """Memory for a vector, the same for the same name."""
        made: Vector = self.scratch(name, like.size, like.dtype)
        return made

    def rate(self, epoch: float, epochs: float) -> float:
        factor = 1.0
        if epoch < self.warmup:
            factor = 0.1 if self.ramp == "flat" else 0.1 + 0.9 * epoch / self.warmup
        return self.lr * factor * self.schedule.factor(epoch, epochs)


def check_fraction(**values: float) -> None:
    """Refuse what is a share of the old and would be all of it."""
    for name, value in values.items():
        if value >= 1:
            raise ValueError(f"{name} = {value}: give a number >= 0 and < 1")
