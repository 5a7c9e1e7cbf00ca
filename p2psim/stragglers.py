"""Compute models: virtual seconds of a peer's local step, pure functions of (seed, rank, step)."""

from __future__ import annotations

from p2psim import rng
from p2psim.base import Count, NonNegative, Positive
from p2psim.registry import plugin


@plugin("compute", "constant")
class Constant:
    """Every step of every peer takes `seconds`."""

    seconds_per_step: Positive = 1.0

    def bind(self, seed: int) -> None: ...

    def seconds(self, rank: int, step: int) -> float:
        return self.seconds_per_step


@plugin("compute", "shifted-exponential", "Xu 2021, section 4")
class ShiftedExponential:
    """X = shift + Exp with mean `mean`, drawn anew every `period` steps, constant in between."""

    shift: NonNegative = 0.05
    mean: NonNegative = 0.02
    period: Count = 1

    def bind(self, seed: int) -> None:
        self.seed = seed

    def seconds(self, rank: int, step: int) -> float:
        draw = rng.generator(self.seed, "compute", rank, step // self.period)
        return self.shift + self.mean * float(draw.standard_exponential())
