"""Oracle of a run: gradients of the model on minibatches of the peer's own samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from p2psim import rng
from p2psim.base import LearningRule, Vector
from p2psim.experiment.scenario import Scenario
from p2psim.learning.oracle import LocalOracle
from p2psim.models import cost_model
from p2psim.network.clock import Clock
from p2psim.simulation.flat_model import FlatModel, seed
from p2psim.simulation.minibatches import Batches
from p2psim.vectors import squared_norm


class MinibatchOracle(LocalOracle):
    """Gradients of the model by the learning rule.

    `alive` is called before every gradient, to show that the peer makes progress.
    """

    def __init__(
        self,
        scenario: Scenario,
        model: FlatModel,
        batches: Batches,
        clock: Clock,
        alive: Callable[[], None],
    ) -> None:
        learning, compute = scenario.experiment.learning, scenario.experiment.time.compute
        super().__init__(
            scenario.setting, batches.rank, learning.optimizer, compute, clock, model.x
        )
        self.model, self.batches, self.alive = model, batches, alive
        self.rule: LearningRule = learning.rule
        self.random = not (model.deterministic and getattr(self.rule, "deterministic", False))
        self.l2 = learning.l2
        self.cost, self.precision = scenario.cost, learning.precision
        self.energy = 0.0 if self.cost else math.nan  # mJ
        self.losses: list[float] = []
        self.energy_of = functools.cache(self.compute_energy)  # minibatches have few sizes

    def compute_energy(self, samples: int) -> float:
        """Return the energy in mJ of a gradient on so many samples."""
        assert self.cost
        operations = cost_model.operations(self.cost, samples, self.precision)
        return float(operations.energy(self.precision))

    def _evaluate(self, x: Vector, samples: int | None) -> Vector:
        self.alive()
        model = self.model
        model.load(x)
        batch = self.batches.take(self.step_count)
        if samples is not None:
            batch = batch.part(0, samples)
        if self.random:
            # Random numbers of layers (dropout) are a function of seed, rank and step like others.
            seed(rng.key(self.setting.seed, "layers", self.rank, self.step_count), model.device)
        loss = self.rule.gradient(model, batch)
        g = model.gradient()
        if self.l2:
            g += self.l2 * model.x
            loss += 0.5 * self.l2 * squared_norm(model.x)
        self.losses.append(loss)
        if self.cost:
            self.energy += self.energy_of(batch.targets.shape[0])
        return g

    @property
    def epoch(self) -> float:
        """Passes over this peer's own samples."""
        return self.step_count * self.batches.size / self.batches.samples.count

    def mean_loss(self) -> float:
        """Return the mean minibatch loss since the last call; NaN if there was none."""
        if not self.losses:
            return math.nan
        mean = self.losses[0] if len(self.losses) == 1 else float(np.mean(self.losses))
        self.losses.clear()
        return mean

    def state(self) -> dict[str, Any]:
        """Return everything that the next local step depends on."""
        return {
            "step_count": self.step_count,
            "losses": self.losses,
            "energy": self.energy,
            "optimizer": self.optimizer,
            "rule": self.rule,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state; the attributes of optimizer and rule are restored already."""
        self.step_count, self.losses = state["step_count"], state["losses"]
        self.energy = state["energy"]
