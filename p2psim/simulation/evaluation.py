"""Measuring the models: outside the traffic count and outside virtual time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from p2psim import rng
from p2psim.base import Metric, Vector
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.scenario import Scenario
from p2psim.network.collectives import ControlChannel
from p2psim.simulation.flat_model import FlatModel
from p2psim.simulation.minibatches import Samples
from p2psim.vectors import squared_norm

# Samples per forward pass, and entries of an activation that these may have: 8 MiB in float32, so
# that evaluation takes no more memory than training.
CHUNK, ENTRIES = 2048, 2**21


class Evaluator:
    """Every peer tests its own model on all samples, and the mean model on 1/n of them.

    With eval.samples that is a seeded subset, the same everywhere, until `use_all`.
    """

    def __init__(
        self, scenario: Scenario, model: FlatModel, net: ControlChannel, holdings: Holdings
    ) -> None:
        self.scenario, self.net, self.model, self.holdings = scenario, net, model, holdings
        self.chunk = min(CHUNK, max(1, ENTRIES // scenario.widest))
        self.l2 = scenario.experiment.learning.l2
        self.metrics = scenario.task.metrics
        inputs, targets = holdings.test
        wanted = scenario.experiment.eval.samples
        self.partial = wanted is not None and wanted < len(targets)
        if self.partial:
            draw = rng.generator(scenario.experiment.head.seed, "eval")
            chosen = np.sort(draw.permutation(len(targets))[:wanted])
            inputs, targets = inputs[chosen], targets[chosen]
        self.use(inputs, targets)

    def use(self, inputs: Any, targets: Any) -> None:
        """Test on these samples from now on."""
        dtype = getattr(torch, self.scenario.experiment.model_section.dtype)
        data, device = self.scenario.experiment.data, self.model.device
        self.samples = Samples(data, (inputs, targets), dtype, device)

    def use_all(self) -> None:
        """Test on the whole test set from now on."""
        if self.partial:
            self.partial = False
            self.use(*self.holdings.test)

    def measure(self, x: Vector) -> dict[str, Any]:
        """Return one row of /eval for this peer's model x; all peers must call it together."""
        # The mean borrows the module first; x goes in last and stays, in case x is its own vector.
        x = x.copy() if x is self.model.x else x
        n, rank, total = self.net.peers, self.net.rank, len(self.samples)
        mean = self.net.total(x) / n
        primary = dict(itertools.islice(self.metrics.items(), 1))
        share = slice(total * rank // n, total * (rank + 1) // n)
        _, mean_sums = self.test(mean, share, primary) if primary else (0.0, {})
        loss, sums = self.test(x, slice(0, total), self.metrics)
        own = [np.array([squared_norm(x - mean)]), *(part.ravel() for part in mean_sums.values())]
        squares, *joint = self.net.total(np.concatenate(own))
        row = {"loss": loss, "consensus_distance": math.sqrt(squares / n)}
        for name, metric in self.metrics.items():
            row[name] = metric.result(sums[name])
        for name, metric in primary.items():
            row[f"mean_model_{name}"] = metric.result(np.reshape(joint, mean_sums[name].shape))
        return row

    def test(
        self, x: Vector, part: slice, metrics: Mapping[str, Metric]
    ) -> tuple[float, dict[str, Any]]:
        """Return the mean loss of model x on these samples, and the sums of the metrics."""
        self.model.load(x)
        self.model.module.eval()
        loss, weight = 0.0, 0.0
        sums = {name: metric.zero(len(self.samples)) for name, metric in metrics.items()}
        with torch.inference_mode():
            for start in range(part.start, part.stop, self.chunk):
                batch = self.samples.values(slice(start, min(start + self.chunk, part.stop)))
                outputs = self.model.module(batch.inputs)
                loss += self.model.loss(outputs, batch).item() * batch.weight
                weight += batch.weight
                for name, metric in metrics.items():
                    metric.add(sums[name], outputs, batch)
        self.model.module.train()
        regularizer = 0.5 * self.l2 * squared_norm(x) if self.l2 else 0.0
        return loss / max(1.0, weight) + regularizer, sums
