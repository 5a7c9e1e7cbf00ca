"""Measuring the models: outside the traffic count and outside virtual time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from p2psim import rng
from p2psim.base import Vector
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
        self.classes = scenario.experiment.data.classes
        self.l2 = scenario.experiment.learning.l2
        (_, own), (inputs, targets) = holdings.train(net.rank), holdings.test
        self.seen = np.isin(np.arange(self.classes), own)
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
        self.counts = np.bincount(targets, minlength=self.classes) if self.classes else None

    def use_all(self) -> None:
        """Test on the whole test set from now on."""
        if self.partial:
            self.partial = False
            self.use(*self.holdings.test)

    def measure(self, x: Vector) -> dict[str, Any]:
        """One row of /eval for this peer's model x; all peers must call it together."""
        # The mean borrows the module first; x goes in last and stays, in case x is its own vector.
        x = x.copy() if x is self.model.x else x
        mean = self.net.total(x) / self.net.peers
        total = len(self.samples)
        share = slice(
            total * self.net.rank // self.net.peers, total * (self.net.rank + 1) // self.net.peers
        )
        _, mean_hits = self.test(mean, share)
        loss, hits = self.test(x, slice(0, total))
        sums = self.net.total(np.array([squared_norm(x - mean), mean_hits.sum()]))
        row = {
            "loss": loss,
            "accuracy": math.nan,
            "class_accuracy": math.nan,
            "seen_accuracy": math.nan,
            "unseen_accuracy": math.nan,
            "consensus_distance": math.sqrt(sums[0] / self.net.peers),
            "mean_model_accuracy": math.nan,
        }
        if self.counts is not None:
            counts, seen = self.counts, self.seen
            row["accuracy"] = hits.sum() / total
            row["mean_model_accuracy"] = sums[1] / total
            with np.errstate(invalid="ignore"):  # where there are no test samples
                row["class_accuracy"] = hits / counts
                row["seen_accuracy"] = hits[seen].sum() / counts[seen].sum()
                row["unseen_accuracy"] = hits[~seen].sum() / counts[~seen].sum()
        return row

    def test(self, x: Vector, part: slice) -> tuple[float, Any]:
        """Mean loss of model x on these samples, and the number of hits in each class."""
        self.model.load(x)
        self.model.module.eval()
        loss, hits = 0.0, np.zeros(max(1, self.classes))
        with torch.inference_mode():
            for start in range(part.start, part.stop, self.chunk):
                stop = min(start + self.chunk, part.stop)
                inputs, targets = self.samples.values(slice(start, stop))
                outputs = self.model.module(inputs)
                loss += self.model.loss(outputs, targets).item() * len(targets)
                if self.classes:
                    right = targets[predicted(outputs) == targets]
                    hits += np.bincount(right.cpu().numpy(), minlength=self.classes)
        self.model.module.train()
        regularizer = 0.5 * self.l2 * squared_norm(x) if self.l2 else 0.0
        return loss / max(1, part.stop - part.start) + regularizer, hits


def predicted(outputs: torch.Tensor) -> torch.Tensor:
    """The class of largest logit; with one logit, class 1 where it is positive."""
    return outputs.argmax(dim=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()
