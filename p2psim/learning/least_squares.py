"""Least squares as an optimization problem, measured by its objective alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Task
from p2psim.learning.metrics import check_real_targets, half_squared
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("task", "least-squares")
class LeastSquares(Task):
    """loss = mean of (z - y)^2 / 2. The objective itself is the measure: there are no metrics."""

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        check_real_targets("least-squares", targets, spec)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return half_squared(outputs, batch.targets)
