"""Regression of real targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Task
from p2psim.learning.metrics import SumMetric, check_real_targets, half_squared
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("task", "regression")
class Regression(Task):
    """loss = mean of (z - y)^2 / 2 over all entries of the targets y.

    Metrics: root mean squared error (primary), and R^2 = 1 - sum (z - y)^2 / sum (y - mean y)^2.
    """

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        check_real_targets("regression", targets, spec)

    def bind(self, spec: DataSpec, own: NDArray[Any]) -> None:
        self.metrics = {
            "rmse": SumMetric(
                4,
                "root mean squared error on the test samples",
                moments,
                lambda s: (s[1] / s[0]) ** 0.5,
                "lower",
            ),
            "r2": SumMetric(
                4,
                "share of the targets' variance that the peer's model explains, at most 1",
                moments,
                lambda s: 1 - s[1] / (s[3] - s[2] ** 2 / s[0]),
                "higher",
            ),
        }

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return half_squared(outputs, batch.targets)


def moments(outputs: torch.Tensor, batch: Batch) -> list[float]:
    """Return the number of entries and the sums of (z - y)^2, y and y^2, in float64."""
    y = batch.targets.double()
    errors = outputs.reshape(y.shape).double() - y
    return [y.numel(), errors.square().sum().item(), y.sum().item(), y.square().sum().item()]
