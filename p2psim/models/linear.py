"""The linear model: logistic or softmax regression, depending on the data's loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from p2psim.base import Model, Shape
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("model", "linear")
class Linear(Model):
    """outputs = W x + b on the flattened sample, with torch's initialization."""

    bias: bool = True

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        weight = (outputs, math.prod(inputs))
        return [weight, (outputs,)] if self.bias else [weight]

    def macs(self, inputs: Shape, outputs: int) -> int:
        return math.prod(inputs) * outputs

    def build(self, inputs: Shape, outputs: int) -> torch.nn.Module:
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(inputs), outputs, bias=self.bias))
