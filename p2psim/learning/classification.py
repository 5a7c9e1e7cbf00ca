"""Classification into C classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Task
from p2psim.errors import InputError
from p2psim.learning.metrics import check_labels, class_metrics
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("task", "classification")
class Classification(Task):
    """loss = -log softmax(z)_y, the cross-entropy of the logits z and the class y.

    Metrics: accuracy on all classes (primary), on the classes of the peer's own training samples,
    on the others, and by class.
    """

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        check_labels(targets, spec.classes)
        if targets.ndim != 1 or spec.outputs < spec.classes:
            raise InputError(
                f"learning.task: 'classification' needs one class for each sample and an output "
                f"for each class; the data set has targets of shape {targets.shape}, "
                f"{spec.classes} classes and {spec.outputs} outputs; correct the data set or "
                "choose another task"
            )

    def bind(self, spec: DataSpec, own: NDArray[Any]) -> None:
        self.metrics = class_metrics(spec.classes, own)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, batch.targets.long())
