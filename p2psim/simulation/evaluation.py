"""Evaluation of the models on test samples; it costs neither counted traffic nor virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from p2psim import rng
from p2psim.base import Batch, Metric, Vector
from p2psim.experiment.data_check import Raw
from p2psim.experiment.holdings import Holdings, joined, rows
from p2psim.experiment.scenario import Scenario
from p2psim.network.collectives import ControlChannel
from p2psim.simulation.flat_model import FlatModel
from p2psim.simulation.minibatches import Samples
from p2psim.simulation.run_format import primary
from p2psim.vectors import squared_norm

# Most samples in one forward pass, and most entries of an activation for them: 8 MiB in float32,
# so that evaluation takes no more memory than training.
CHUNK, ENTRIES = 2048, 2**21


class Tally:
    """Sums over consecutive samples of a set: of the loss, of the weight, and of each metric."""

    def __init__(
        self, part: slice, metrics: Mapping[str, Metric], samples: int, first: int = 0
    ) -> None:
        """Prepare for the samples `part` of a set of `samples` samples, which begins at `first`."""
        self.part, self.metrics, self.first = part, metrics, first
        self.loss = self.weight = 0.0
        self.sums = {name: metric.zero(samples) for name, metric in metrics.items()}

    def add(
        self,
        batch: Batch,
        outputs: torch.Tensor,
        loss: Callable[[torch.Tensor, Batch], torch.Tensor],
    ) -> None:
        """Add those samples of a batch that belong to the part."""
        count = len(batch.targets)
        low = max(0, self.part.start - batch.start)
        high = min(count, self.part.stop - batch.start)
        if low >= high:
            return
        start = batch.start + low - self.first
        if high - low < count:
            batch, outputs = batch.part(low, high), outputs[low:high]
        batch = replace(batch, start=start)
        self.loss += loss(outputs, batch).item() * batch.weight
        self.weight += batch.weight
        for name, metric in self.metrics.items():
            metric.add(self.sums[name], outputs, batch)

    def mean_loss(self) -> float:
        """Return the mean loss over the weight, without the l2 term."""
        return self.loss / max(1.0, self.weight)

    def results(self, prefix: str = "") -> dict[str, Any]:
        """Return the metrics by name."""
        return {prefix + name: m.result(self.sums[name]) for name, m in self.metrics.items()}


class Evaluator:
    """Evaluator of one peer: its own model on all test samples, the mean model on 1/n of them.

    With eval.samples the test samples are a seeded subset, the same on every peer, until `use_all`
    is called. A few validation samples are stored behind the test samples, so that both share a
    forward pass: that of a graph costs the same for any number of its nodes.
    """

    def __init__(
        self, scenario: Scenario, model: FlatModel, control: ControlChannel, holdings: Holdings
    ) -> None:
        self.scenario, self.control, self.model, self.holdings = scenario, control, model, holdings
        self.chunk = min(CHUNK, max(1, ENTRIES // scenario.widest))
        self.l2 = scenario.experiment.learning.l2
        test, size = holdings.test, scenario.experiment.eval.samples
        self.partial = size is not None and size < len(test[1])
        if self.partial:
            generator = rng.generator(scenario.experiment.head.seed, "eval")
            indices = np.sort(generator.permutation(len(test[1]))[:size])
            test = rows(test[0], indices), test[1][indices]
        self.load(test)

    def load(self, test: Raw) -> None:
        """Load raw test samples and the validation samples, together if they are few."""
        experiment, validation = self.scenario.experiment, self.holdings.validation
        dtype = getattr(torch, experiment.model_section.dtype)

        def samples(raw: Raw) -> Samples:
            return Samples(experiment.data, raw, dtype, self.model.device)

        self.tested = len(test[1])
        self.validated = len(validation[1]) if validation else 0
        self.together = bool(validation) and self.tested + self.validated <= self.chunk
        if validation and self.together:
            test, validation = joined(test, validation), None
        self.samples = samples(test)
        self.validation = samples(validation) if validation else self.samples

    def use_all(self) -> None:
        """Evaluate on all test samples from now on."""
        if self.partial:
            self.partial = False
            self.load(self.holdings.test)

    def measure(self, x: Vector) -> dict[str, Any]:
        """Return one row of /eval for this peer's model x, by name; collective."""
        # The mean model is loaded first, which overwrites the module's own vector. The last one
        # that is loaded is x, so that the module's vector has its old value in the end.
        x = x.copy() if x is self.model.x else x
        n, rank, tested = self.control.peers, self.control.rank, self.tested
        mean = self.control.total(x) / n
        first = dict(primary(self.scenario.task))
        test = Tally(slice(0, tested), self.scenario.task.metrics, tested)
        joint = test  # of a single peer: the mean model is x itself
        if n > 1 and first:
            joint = Tally(slice(tested * rank // n, tested * (rank + 1) // n), first, tested)
            self.test(mean, self.samples, joint)
        validation = []
        if self.validated:
            start = tested if self.together else 0
            part = slice(start, start + self.validated)
            validation.append(Tally(part, first, self.validated, start))
        self.test(x, self.samples, test, *(validation if self.together else ()))
        if validation and not self.together:
            self.test(x, self.validation, *validation)
        own = [np.array([squared_norm(x - mean)]), *(joint.sums[name].ravel() for name in first)]
        squares, *total = self.control.total(np.concatenate(own))
        regularizer = 0.5 * self.l2 * squared_norm(x) if self.l2 else 0.0
        row = {"loss": test.mean_loss() + regularizer, "consensus_distance": math.sqrt(squares / n)}
        row |= test.results()
        for name, metric in first.items():
            sums = np.reshape(total, joint.sums[name].shape)
            row[f"mean_model_{name}"] = metric.result(sums)
        for tally in validation:
            row["validation_loss"] = tally.mean_loss() + regularizer
            row |= tally.results("validation_")
        return row

    def test(self, x: Vector, samples: Samples, *tallies: Tally) -> None:
        """Add the outputs of model x for samples to tallies, whose parts follow one another."""
        part = slice(tallies[0].part.start, tallies[-1].part.stop)
        for batch, outputs in self.outputs(x, samples, part):
            for tally in tallies:
                tally.add(batch, outputs, self.model.loss)

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
        task, count = self.scenario.task, min(self.scenario.task.saved, self.tested)
        if count:
            pairs = list(self.outputs(x, self.samples, slice(0, count)))
            targets = torch.cat([batch.targets for batch, _ in pairs]).cpu().numpy()
            task.save(path, torch.cat([outputs for _, outputs in pairs]).cpu().numpy(), targets)
