"""Prediction of the edges of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Task
from p2psim.errors import InputError
from p2psim.learning.metrics import Ranking, auc, average_precision
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("task", "link-prediction", "Kipf & Welling 2016, section 2")
class LinkPrediction(Task):
    """loss = -mean log sigma(s) - mean log(1 - sigma(s')), sigma the logistic function

    over samples with the score s of an edge and the score s' of a pair of nodes without an edge.
    Metrics, exact: area under the ROC curve (primary) and average precision of the edges among all
    pairs of the test samples.
    """

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        if spec.samples != "pairs" or spec.inputs != (2, 2):
            raise InputError(
                "learning.task: 'link-prediction' needs a data set whose samples are pairs of "
                "nodes of a graph, such as 'planetoid-links'; choose that, or another task"
            )

    def bind(self, spec: DataSpec, own: NDArray[Any]) -> None:
        self.metrics = {
            "auc": auc(both_pairs, 2),
            "average_precision": Ranking("average precision", average_precision, both_pairs, 2),
        }

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        from torch.nn.functional import softplus

        # softplus(-s) = -log sigma(s)
        return softplus(-outputs[:, 0]).mean() + softplus(outputs[:, 1]).mean()


def both_pairs(outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores of both pairs of each sample, (B, 2), and their classes: 1 is an edge."""
    import torch

    classes = torch.zeros_like(outputs)
    classes[:, 0] = 1.0
    return outputs, classes
