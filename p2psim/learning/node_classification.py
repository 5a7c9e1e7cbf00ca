"""Classification of the nodes of a graph that all peers hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Task
from p2psim.errors import InputError
from p2psim.learning.metrics import check_labels, class_metrics
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("task", "node-classification")
class NodeClassification(Task):
    """loss = -mean_i log softmax(z_i)_{y_i} over the nodes i of the minibatch.

    All peers know the graph and the features of all nodes; the nodes whose classes y_i a peer
    trains on are its samples. Metrics are those of classification.
    """

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        if spec.samples != "nodes" or targets.ndim != 1:
            raise InputError(
                "learning.task: 'node-classification' needs a data set whose samples are nodes of "
                "a graph with a class each, such as 'planetoid'; choose that, or another task"
            )
        check_labels(targets, spec.classes)

    def bind(self, spec: DataSpec, own: NDArray[Any]) -> None:
        self.metrics = class_metrics(spec.classes, own)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, batch.targets)
