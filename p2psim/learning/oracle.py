"""The oracle of one peer: local steps, step times and learning rates, written once.

A run and the dry run of `plan` differ in `_evaluate` alone, which computes a gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from p2psim import rng
from p2psim.base import LocalOptimizer, Setting, Shape, StepTimeModel, Vector
from p2psim.network.clock import Clock
from p2psim.network.messages import Pool
from p2psim.vectors import add_scaled


class LocalOracle(ABC):
    """Local steps of one peer on its own data; see base.Oracle."""

    def __init__(
        self,
        setting: Setting,
        rank: int,
        optimizer: LocalOptimizer,
        compute: StepTimeModel | None,
        clock: Clock,
        x: Vector,
    ) -> None:
        """Start the optimizer at x, the first model."""
        self.setting, self.rank, self.clock = setting, rank, clock
        self.optimizer, self.compute = optimizer, compute
        self.local_steps, self.consensus_steps = setting.local_steps, setting.consensus_steps
        self.shapes: Sequence[Shape] = setting.shapes
        self.step_count = 0
        self.optimizer_used = False
        self.pool = Pool()
        optimizer.start(x)
        # Only an optimizer that compares the models before and after a round costs a copy of x.
        self.mixed = getattr(optimizer, "mixed", None)
        self.before = np.empty_like(x) if self.mixed else x
        self.rates = 0.0  # sum of the learning rates in this round

    @abstractmethod
    def _evaluate(self, x: Vector, samples: int | None) -> Vector:
        """Return the gradient at x of the next minibatch, or of its first `samples` samples.

        The array is overwritten by the next call.
        """

    def begin(self, x: Vector) -> None:
        """Begin a round with the model x."""
        self.rates = 0.0
        if self.mixed:
            np.copyto(self.before, x)

    def end(self, x: Vector) -> None:
        """Tell the optimizer the model x after the round's mixing (quasi-global momentum)."""
        if self.mixed and self.rates:
            self.mixed(self.before, x, self.rates)

    def grad(self, x: Vector) -> Vector:
        out: Vector = self.pool.take(x.size, x.dtype)
        np.copyto(out, self._gradient(x))
        return out

    def step(self, x: Vector) -> Vector:
        return self.update(self._gradient(x), x)

    def local_step(self, x: Vector, at: Vector | None = None) -> Vector:
        z = x if at is None else at
        direction = self.optimizer.direction(self._gradient(z), z)
        return add_scaled(x, -self._rate(), direction, out=x)

    def update(self, g: Vector, x: Vector, epoch: float | None = None) -> Vector:
        out: Vector = self.pool.take(x.size, x.dtype)
        return np.multiply(self.optimizer.direction(g, x), self._rate(epoch), out=out)

    def partial_grad(self, x: Vector, done: int, blocks: int, until: float) -> Vector:
        out: Vector = self.pool.take(x.size, x.dtype)
        if done:
            samples = self.setting.batch_sizes[self.rank] * done // blocks
            share = self._gradient(x, samples, until)
            return np.multiply(share, done / blocks, out=out)
        self.clock.work(until)
        self.step_count += 1
        out[:] = 0
        return out

    def seconds(self, rank: int, step: int) -> float:
        return self.compute.seconds(rank, step) if self.compute else 0.0

    def advance_clock(self, until: float) -> None:
        self.clock.work(until)

    def rng(self, purpose: str) -> np.random.Generator:
        return rng.generator(self.setting.seed, purpose, self.rank, self.step_count)

    def _rate(self, epoch: float | None = None) -> float:
        """Return the learning rate at `epoch`, by default that of the last gradient's step."""
        self.optimizer_used = True
        if epoch is None:
            epoch = (self.step_count - 1) / self.setting.steps_per_epoch
        rate = self.optimizer.rate(epoch, self.setting.epochs)
        self.rates += rate
        return rate

    def _gradient(
        self, x: Vector, samples: int | None = None, until: float | None = None
    ) -> Vector:
        """Return the gradient of the next minibatch and let its virtual time pass.

        Of the first `samples` samples alone, and ready at `until`, where these are given.
        """
        g = self._evaluate(x, samples)
        if until is None and self.compute:
            until = self.clock.now + self.seconds(self.rank, self.step_count)
        if until is not None:
            self.clock.work(until)
        self.step_count += 1
        return g
