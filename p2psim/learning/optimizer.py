"""Base of the local optimizers: learning rate over the run and weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2psim.base import LearningRateSchedule, NonNegative, Vector
from p2psim.vectors import Scratch, add_scaled


@dataclass(kw_only=True, eq=False)
class Descent:
    """x <- x - rate direction(g + wd x).

    Weight decay acts on every tensor. During the first `warmup` epochs lr rises linearly from
    lr/10 or, with ramp = "flat", stays at lr/10.
    """

    lr: NonNegative = 0.1
    weight_decay: NonNegative = 0.0
    schedule: LearningRateSchedule = "constant"  # type: ignore[assignment]
    warmup: NonNegative = 0.0
    ramp: Literal["linear", "flat"] = "linear"

    def start(self, x: Vector) -> None:
        self.scratch = Scratch()

    def decayed(self, g: Vector, x: Vector) -> Vector:
        """Return g' = g + wd x; without weight decay g itself, not a copy."""
        if not self.weight_decay:
            return g
        return add_scaled(g, self.weight_decay, x, out=self.buffer("decayed", x))

    def buffer(self, name: str, template: Vector) -> Vector:
        """Return memory for a vector of the template's size and type, one block per name.

        Every step reuses the block, so that local steps allocate nothing.
        """
        buffer: Vector = self.scratch(name, template.size, template.dtype)
        return buffer

    def rate(self, epoch: float, epochs: float) -> float:
        factor = 1.0
        if epoch < self.warmup:
            factor = 0.1 if self.ramp == "flat" else 0.1 + 0.9 * epoch / self.warmup
        return self.lr * factor * self.schedule.factor(epoch, epochs)


def check_fraction(**values: float) -> None:
    """Check that every decay factor is below 1; ValueError otherwise."""
    for name, value in values.items():
        if value >= 1:
            raise ValueError(f"{name} = {value}: give a number >= 0 and < 1")
