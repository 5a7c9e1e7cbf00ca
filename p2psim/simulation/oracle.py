"""One peer: its model in one flat vector, its minibatches, its oracle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from p2psim import rng
from p2psim.base import Data, LearningRule, LocalOptimizer, Shape, StepTimeModel, Vector
from p2psim.experiment.scenario import Scenario
from p2psim.models import cost_model
from p2psim.network.clock import Clock
from p2psim.network.messages import Pool
from p2psim.vectors import add_scaled, squared_norm

torch.set_num_threads(1)  # ranks share the cores; one thread also fixes the order of sums

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def seed(key: int, device: str) -> None:
    """What layers draw from now on follows from the key."""
    # torch.manual_seed is for all devices; it formats a traceback for those that are not there.
    torch.default_generator.manual_seed(key)
    if device.startswith("cuda"):
        torch.cuda.default_generators[torch.device(device).index].manual_seed(key)


def logistic(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(-y z)) for one logit z and y = 2 target - 1, mean over the batch."""
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.to(outputs.dtype))


def half_squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(z - y)^2 / 2, mean over the batch."""
    return 0.5 * functional.mse_loss(outputs.reshape(targets.shape), targets.to(outputs.dtype))


LOSSES: dict[str, Loss] = {
    "cross-entropy": functional.cross_entropy,
    "logistic": logistic,
    "half-squared": half_squared,
}


class FlatModel:
    """A torch module whose parameters are views of the flat vector x, their .grad views of g."""

    def __init__(self, scenario: Scenario, rank: int) -> None:
        experiment, data = scenario.experiment, scenario.experiment.data
        dtype = getattr(torch, experiment.model_section.dtype)
        own = rank if experiment.model_section.init == "own" else 0
        seed(rng.key(experiment.head.seed, "init", own), "cpu")  # where it is built in any case
        module = experiment.model.build(data.shape, data.outputs)
        if experiment.learning.precision == "int8":
            from p2psim.learning.int8 import quantize_model

            module = quantize_model(module)
        self.module = module.to(dtype)
        self.parameters: list[torch.Tensor] = list(self.module.parameters())
        self.criterion = LOSSES[data.loss]
        self.device = scenario.device
        self.host = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        if self.device != "cpu" and torch.cuda.is_available():
            self.host = self.host.pin_memory()
        self.x: Vector = self.host.numpy()
        first = data.initial(rank)
        if first is not None:
            np.copyto(self.x, first, casting="same_kind")
        self.there = self.host
        if self.device != "cpu":  # a copy of x on the device, and a place for g to come back to
            self.module.to(self.device)
            self.there = self.host.to(self.device, copy=True)
            self.returned = torch.empty_like(self.host, pin_memory=self.host.is_pinned())
        self.g = torch.zeros_like(self.there)
        start = 0
        for p in self.parameters:
            stop = start + p.numel()
            p.data = self.there[start:stop].view(p.shape)
            p.grad = self.g[start:stop].view(p.shape)
            start = stop

    def load(self, x: Vector) -> None:
        """Make x the module's parameters."""
        if x is not self.x:
            np.copyto(self.x, x)
        if self.there is not self.host:
            self.there.copy_(self.host, non_blocking=True)

    def gradient(self) -> Vector:
        """g in host memory; overwritten by the next call."""
        if self.there is self.host:
            return self.g.numpy()
        return self.returned.copy_(self.g).numpy()

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.criterion(outputs, targets)


class Samples:
    """Raw inputs and targets, turned into values only when a batch is taken."""

    def __init__(self, data: Data, raw: tuple[Any, Any], dtype: torch.dtype, device: str) -> None:
        inputs, targets = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in raw)
        self.scale, self.shift = (
            torch.as_tensor(np.asarray(v), dtype=dtype).to(device) for v in (data.scale, data.shift)
        )
        self.plain = data.scale is Data.scale and data.shift is Data.shift
        self.inputs, self.targets = inputs, targets
        self.dtype = torch.int64 if data.vocabulary else dtype  # token ids stay whole numbers
        if self.plain and inputs.dtype.is_floating_point:
            self.inputs = inputs.to(self.dtype)

    def __len__(self) -> int:
        return len(self.targets)

    def values(self, chosen: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs raw * scale + shift, and targets, of the chosen samples (slice or indices)."""
        if isinstance(chosen, slice):
            inputs, targets = self.inputs[chosen], self.targets[chosen]
        else:
            inputs = self.inputs.index_select(0, chosen)
            targets = self.targets.index_select(0, chosen)
        if inputs.dtype != self.dtype:
            inputs = inputs.to(self.dtype)
        if not self.plain:
            inputs = inputs * self.scale + self.shift
        return inputs, targets


class Batches:
    """Minibatches without replacement: a new order every epoch, the remainder dropped."""

    def __init__(self, data: Data, samples: Samples, size: int, seed: int, rank: int) -> None:
        self.data, self.samples, self.size = data, samples, size
        self.seed, self.rank = seed, rank
        self.per_epoch = len(samples) // size
        self.whole = samples.values(slice(None)) if size == len(samples) else None
        self.epoch, self.order = -1, torch.empty(0)
        self.augments = type(data).augment is not Data.augment

    def take(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The minibatch of a local step, a function of (seed, rank, step)."""
        if self.whole is not None:
            inputs, targets = self.whole
        else:
            epoch, batch = divmod(step, self.per_epoch)
            if epoch != self.epoch:
                shuffle = rng.generator(self.seed, "batches", self.rank, epoch)
                self.order = torch.from_numpy(shuffle.permutation(len(self.samples)))
                self.epoch = epoch
            chosen = self.order[batch * self.size : (batch + 1) * self.size]
            inputs, targets = self.samples.values(chosen.to(self.samples.inputs.device))
        if self.augments:
            draw = rng.generator(self.seed, "augment", self.rank, step)
            inputs = self.data.augment(inputs, draw)
        return inputs, targets


class LocalOracle:
    """See base.Oracle. `step_count` local gradients have been taken so far."""

    def __init__(
        self, scenario: Scenario, model: FlatModel, batches: Batches, clock: Clock
    ) -> None:
        learning = scenario.experiment.learning
        self.model, self.batches, self.clock = model, batches, clock
        self.rule: LearningRule = learning.rule
        self.optimizer: LocalOptimizer = learning.optimizer
        self.compute: StepTimeModel | None = scenario.experiment.time.compute
        self.local_steps, self.consensus_steps = learning.local_steps, learning.consensus_steps
        self.shapes: Sequence[Shape] = scenario.shapes
        self.l2 = learning.l2
        self.steps_per_epoch, self.epochs = scenario.steps_per_epoch, scenario.epochs
        self.rank = batches.rank
        self.cost, self.precision = scenario.cost, learning.precision
        self.energy = 0.0 if self.cost else math.nan  # mJ
        self.step_count = 0
        self.losses: list[float] = []
        self.alive: Callable[[], None] = lambda: None  # called in every step
        self.pool = Pool()
        self.optimizer.start(model.x)
        # Only what looks at the model before and after a round pays for a copy of it.
        self.mixed: Callable[[Vector, Vector, float], None] | None
        self.mixed = getattr(self.optimizer, "mixed", None)
        self.before = np.empty_like(model.x) if self.mixed else model.x
        self.rates = 0.0  # sum over the round's directions

    def begin(self, x: Vector) -> None:
        """A round begins with the model x."""
        self.rates = 0.0
        if self.mixed:
            np.copyto(self.before, x)

    def end(self, x: Vector) -> None:
        """It has ended with x."""
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

    def update(self, g: Vector, x: Vector) -> Vector:
        out: Vector = self.pool.take(x.size, x.dtype)
        return np.multiply(self.optimizer.direction(g, x), self._rate(), out=out)

    def seconds(self, rank: int, step: int) -> float:
        return self.compute.seconds(rank, step) if self.compute else 0.0

    def advance_clock(self, until: float) -> None:
        self.clock.work(until)

    def rng(self, purpose: str) -> np.random.Generator:
        return rng.generator(self.batches.seed, purpose, self.rank, self.step_count)

    def partial_grad(self, x: Vector, done: int, blocks: int, until: float) -> Vector:
        out: Vector = self.pool.take(x.size, x.dtype)
        if done:
            share = self._gradient(x, self.batches.size * done // blocks, until)
            return np.multiply(share, done / blocks, out=out)
        self.clock.work(until)
        self.step_count += 1
        out[:] = 0
        return out

    def _rate(self) -> float:
        """Learning rate of the step whose gradient was taken last."""
        epoch = (self.step_count - 1) / self.steps_per_epoch
        rate = self.optimizer.rate(epoch, self.epochs)
        self.rates += rate
        return rate

    def _gradient(
        self, x: Vector, samples: int | None = None, until: float | None = None
    ) -> Vector:
        """The next minibatch's gradient at x; overwritten by the next call.

        Of its first `samples` alone, if given, and ready when it is `until`.
        """
        self.alive()
        model = self.model
        model.load(x)
        inputs, targets = self.batches.take(self.step_count)
        if samples is not None:
            inputs, targets = inputs[:samples], targets[:samples]
        # What a layer draws (dropout) must not depend on what was drawn before it.
        seed(rng.key(self.batches.seed, "layers", self.rank, self.step_count), model.device)
        loss, _ = self.rule.gradient(model, inputs, targets)
        g = model.gradient()
        if self.l2:
            g += self.l2 * model.x
            loss += 0.5 * self.l2 * squared_norm(model.x)
        if until is None:
            until = self.clock.now + self.seconds(self.rank, self.step_count)
        self.clock.work(until)
        self.step_count += 1
        self.losses.append(loss)
        if self.cost:
            operations = cost_model.operations(self.cost, len(targets), self.precision)
            self.energy += operations.energy(self.precision)
        return g

    @property
    def epoch(self) -> float:
        """Passes over this peer's own data."""
        return self.step_count * self.batches.size / len(self.batches.samples)

    def mean_loss(self) -> float:
        """Mean minibatch loss since the last call; NaN if there was none."""
        mean = float(np.mean(self.losses)) if self.losses else float("nan")
        self.losses.clear()
        return mean
