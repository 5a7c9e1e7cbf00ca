"""Prediction of clicks from categorical fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Shape, Task
from p2psim.errors import InputError
from p2psim.learning.metrics import SumMetric, auc, check_labels
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("task", "click-through", "McMahan et al. 2013")
class ClickThrough(Task):
    """loss = -(y log p + (1 - y) log(1 - p)) of p = 1 / (1 + exp(-z)), for one logit z, y = 0 or 1.

    Metrics: the exact area under the ROC curve (primary), and the mean loss of the test samples,
    log_loss.
    """

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        check_fields(spec)
        check_labels(targets, spec.classes)

    def bind(self, spec: DataSpec, own: NDArray[Any]) -> None:
        self.metrics = {
            "auc": auc(),
            "log_loss": SumMetric(
                2,
                "mean negative log-likelihood of the clicks of the test samples",
                likelihood,
                lambda sums: sums[0] / sums[1],
                "lower",
            ),
        }

    def output_shape(self, spec: DataSpec) -> Shape:
        check_fields(spec)
        return (1,)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        logits = outputs[:, 0]
        return functional.binary_cross_entropy_with_logits(logits, batch.targets.to(logits.dtype))


def check_fields(spec: DataSpec) -> None:
    """Check that the data set has categorical fields and two classes; InputError otherwise."""
    if spec.samples != "fields" or spec.classes != 2 or spec.outputs != 1:
        raise InputError(
            "learning.task: 'click-through' needs categorical fields, two classes and one output, "
            f"the data set has samples of kind {spec.samples!r}, {spec.classes} classes and "
            f"{spec.outputs} outputs; choose data 'criteo', or another task"
        )


def likelihood(outputs: torch.Tensor, batch: Batch) -> list[float]:
    """Return the sum of the samples' negative log-likelihoods, and the number of samples."""
    from torch.nn import functional

    logits, targets = outputs[:, 0].double(), batch.targets.double()
    total = functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return [total.item(), len(targets)]
