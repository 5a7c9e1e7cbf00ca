"""Evaluation of the models on test samples; it costs neither counted traffic nor virtual time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from p2psim import rng
from p2psim.base import Batch, Metric, Vector
from p2psim.experiment.data_check import Raw
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.scenario import Scenario
from p2psim.network.collectives import ControlChannel
from p2psim.simulation.flat_model import FlatModel
from p2psim.simulation.minibatches import Samples
from p2psim.simulation.run_format import primary
from p2psim.vectors import squared_norm

# Most samples in one forward pass, and most entries of an activation for them: 8 MiB in float32,
# so that evaluation takes no more memory than training.
CHUNK, ENTRIES = 2048, 2**21


class Evaluator:
    """Evaluator of one peer: its own model on all test samples, the mean model on 1/n of them.

    With eval.samples the test samples are a seeded subset, the same on every peer, until `use_all`
    is called.
    """

    def __init__(
        self, scenario: Scenario, model: FlatModel, control: ControlChannel, holdings: Holdings
    ) -> None:
        self.scenario, self.control, self.model, self.holdings = scenario, control, model, holdings
        self.chunk = min(CHUNK, max(1, ENTRIES // scenario.widest))
        self.l2 = scenario.experiment.learning.l2
        self.metrics = scenario.task.metrics
        inputs, targets = holdings.test
        size = scenario.experiment.eval.samples
        self.partial = size is not None and size < len(targets)
        if self.partial:
            generator = rng.generator(scenario.experiment.head.seed, "eval")
            indices = np.sort(generator.permutation(len(targets))[:size])
            inputs, targets = inputs[indices], targets[indices]
        self.samples = self.load((inputs, targets))
        self.validation = self.load(holdings.validation) if holdings.validation else None

    def load(self, raw: Raw) -> Samples:
        """Return raw inputs and targets as samples in memory."""
        dtype = getattr(torch, self.scenario.experiment.model_section.dtype)
        return Samples(self.scenario.experiment.data, raw, dtype, self.model.device)

    def use_all(self) -> None:
        """Evaluate on all test samples from now on."""
        if self.partial:
            self.partial = False
            self.samples = self.load(self.holdings.test)

    def measure(self, x: Vector) -> dict[str, Any]:
        """Return one row of /eval for this peer's model x, by name; collective."""
        # The mean model is loaded first, which overwrites the module's own vector. The last one
        # that is loaded is x, so that the module's vector has its old value in the end.
        x = x.copy() if x is self.model.x else x
        n, rank, samples = self.control.peers, self.control.rank, self.samples
        mean = self.control.total(x) / n
        share = slice(samples.count * rank // n, samples.count * (rank + 1) // n)
        first = dict(primary(self.scenario.task))
        mean_sums: dict[str, Any] = {}
        if n > 1 and first:
            _, mean_sums = self.test(mean, samples, share, first)
        loss, sums = self.test(x, samples, slice(0, samples.count), self.metrics)
        if n == 1:
            mean_sums = {name: sums[name] for name in first}  # the mean model is x itself
        own = [np.array([squared_norm(x - mean)]), *(part.ravel() for part in mean_sums.values())]
        squares, *joint = self.control.total(np.concatenate(own))
        row = {"loss": loss, "consensus_distance": math.sqrt(squares / n)}
        for name, metric in self.metrics.items():
            row[name] = metric.result(sums[name])
        for name, metric in first.items():
            row[f"mean_model_{name}"] = metric.result(np.reshape(joint, mean_sums[name].shape))
        if self.validation:
            everything = slice(0, self.validation.count)
            row["validation_loss"], sums = self.test(x, self.validation, everything, first)
            for name, metric in first.items():
                row[f"validation_{name}"] = metric.result(sums[name])
        return row

    def test(
        self, x: Vector, samples: Samples, part: slice, metrics: Mapping[str, Metric]
    ) -> tuple[float, dict[str, Any]]:
        """Return the mean loss of model x on a part of the samples, and the metrics' sums by name.

        The loss includes the l2 term.
        """
        loss, weight = 0.0, 0.0
        sums = {name: metric.zero(samples.count) for name, metric in metrics.items()}
        for batch, outputs in self.outputs(x, samples, part):
            loss += self.model.loss(outputs, batch).item() * batch.weight
            weight += batch.weight
            for name, metric in metrics.items():
                metric.add(sums[name], outputs, batch)
        regularizer = 0.5 * self.l2 * squared_norm(x) if self.l2 else 0.0
        return loss / max(1.0, weight) + regularizer, sums

    def outputs(
        self, x: Vector, samples: Samples, part: slice
    ) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Yield batches of a part of the samples, with the outputs of model x for them."""
        self.model.load(x)
        self.model.module.eval()
        with torch.inference_mode():
            for start in range(part.start, part.stop, self.chunk):
                batch = samples.values(slice(start, min(start + self.chunk, part.stop)))
                yield batch, self.model.module(batch.inputs)
        self.model.module.train()

    def save(self, x: Vector, path: Path) -> None:
        """Let the task save the outputs of the last model x for its first test samples."""
        task, count = self.scenario.task, min(self.scenario.task.saved, self.samples.count)
        if count:
            pairs = list(self.outputs(x, self.samples, slice(0, count)))
            targets = torch.cat([batch.targets for batch, _ in pairs]).cpu().numpy()
            task.save(path, torch.cat([outputs for _, outputs in pairs]).cpu().numpy(), targets)
