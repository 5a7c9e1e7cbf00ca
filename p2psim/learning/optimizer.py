"""Base of the local optimizers: learning rate over the run, clipping and weight decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from p2psim.base import LearningRateSchedule, Natural, NonNegative, Setting, Vector
from p2psim.vectors import Scratch, add_scaled, squared_norm


@dataclass(kw_only=True, eq=False)
class Descent:
    """x <- x - rate direction(g + wd x).

    With `clip` > 0 the gradient g of a minibatch is first multiplied by min(1, clip / ||g||).
    Weight decay acts on every tensor of the model, or on those whose numbers are in `decayed`, from
    0 in torch's order. During the first `warmup` epochs lr rises linearly from lr/10 or, with
    ramp = "flat", stays at lr/10.
    """

    lr: NonNegative = 0.1
    weight_decay: NonNegative = 0.0
    decayed: list[Natural] | None = None
    clip: NonNegative = 0.0
    schedule: LearningRateSchedule = "constant"  # type: ignore[assignment]
    warmup: NonNegative = 0.0
    ramp: Literal["linear", "flat"] = "linear"

    def bind(self, setting: Setting) -> None:
        """Find the tensors that weight decay acts on; ValueError for a tensor that is not there."""
        sizes = [math.prod(shape) for shape in setting.shapes]
        ends, numbers = np.cumsum(sizes).tolist(), sorted({*(self.decayed or ())})
        if numbers and numbers[-1] >= len(sizes):
            raise ValueError(
                f"decayed has the entry {numbers[-1]}, but the model has {len(sizes)} tensors; "
                f"give numbers from 0 to {len(sizes) - 1}"
            )
        self.parts = [slice(ends[number] - sizes[number], ends[number]) for number in numbers]
        if hasattr(self.schedule, "bind"):
            self.schedule.bind(setting)

    def start(self, x: Vector) -> None:
        self.scratch = Scratch()
        if hasattr(self.schedule, "start"):
            self.schedule.start()

    def evaluated(self, loss: float) -> None:
        """Pass the loss on the validation samples to the schedule."""
        if hasattr(self.schedule, "evaluated"):
            self.schedule.evaluated(loss)

    def clipped(self, g: Vector) -> Vector:
        """Return g min(1, clip / ||g||); without need to clip g itself, not a copy."""
        norm = math.sqrt(squared_norm(g)) if self.clip else 0.0
        if norm <= self.clip:
            return g
        return np.multiply(g, self.clip / norm, out=self.buffer("clipped", g))

    def regularized(self, g: Vector, x: Vector) -> Vector:
        """Return g' = clipped g + wd x; without weight decay and clipping g itself, not a copy."""
        g = self.clipped(g)
        return self.add_decay(g, x, self.buffer("decayed", x)) if self.weight_decay else g

    def add_decay(self, v: Vector, x: Vector, out: Vector) -> Vector:
        """Compute out = v + wd x, with wd x in the decayed tensors alone; return out."""
        if self.decayed is None:
            return add_scaled(v, self.weight_decay, x, out=out)
        if out is not v:
            np.copyto(out, v)
        for part in self.parts:
            add_scaled(out[part], self.weight_decay, x[part], out=out[part])
        return out

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
