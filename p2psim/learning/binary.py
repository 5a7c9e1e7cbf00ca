"""Classification into two classes by one logit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Task
from p2psim.errors import InputError
from p2psim.learning.metrics import auc, check_labels, class_metrics
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("task", "binary")
class Binary(Task):
    """loss = log(1 + exp(-s z)) of the logit z, with s = 2 y - 1 for the class y = 0 or 1.

    Metrics: accuracy (primary), by class as in classification, and the exact area under the ROC
    curve.
    """

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        if spec.classes != 2 or spec.outputs != 1:
            raise InputError(
                f"learning.task: 'binary' needs two classes and one output, the data set has "
                f"{spec.classes} and {spec.outputs}; choose 'classification' or 'regression'"
            )
        check_labels(targets, spec.classes)

    def bind(self, spec: DataSpec, own: NDArray[Any]) -> None:
        self.metrics = {**class_metrics(spec.classes, own), "auc": auc()}

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        targets = batch.targets.to(outputs.dtype)
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets)
