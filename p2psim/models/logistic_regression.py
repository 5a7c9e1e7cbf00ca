"""Logistic regression on categorical fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2psim.base import Shape
from p2psim.models.fields import FieldModel, linear_shapes
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "logistic-regression", "McMahan et al. 2013")
class LogisticRegression(FieldModel):
    """Logistic regression: z = b + sum_i w_i over the ids i of a sample; all start at 0.

    The model has no feedback points.
    """

    precisions = ("fp32",)

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        self.check(inputs, outputs)
        return linear_shapes(self.ids)

    def macs(self, inputs: Shape, outputs: int) -> int:
        return self.fields

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models import recommenders

        self.check(inputs, outputs)
        return recommenders.Linear(self.ids)
