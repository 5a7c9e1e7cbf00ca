"""The multilayer perceptron."""

from __future__ import annotations

import math
from dataclasses import field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from p2psim.base import Count, Model, Shape
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("model", "mlp")
class MLP(Model):
    """Fully connected layers of the widths `hidden`, on the flattened sample.

    The default, 200-200 with ReLU, is the network of McMahan et al. 2017 ("2NN"); the
    initialization is torch's.
    """

    hidden: list[Count] = field(default_factory=lambda: [200, 200])
    activation: Literal["relu", "tanh"] = "relu"

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        shapes: list[Shape] = []
        for before, after in pairwise(self._widths(inputs, outputs)):
            shapes += [(after, before), (after,)]
        return shapes

    def macs(self, inputs: Shape, outputs: int) -> int:
        return sum(before * after for before, after in pairwise(self._widths(inputs, outputs)))

    def build(self, inputs: Shape, outputs: int) -> torch.nn.Module:
        from torch import nn

        function = {"relu": nn.ReLU, "tanh": nn.Tanh}[self.activation]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(self._widths(inputs, outputs)):
            layers += [nn.Linear(before, after), function()]
        return nn.Sequential(*layers[:-1])

    def _widths(self, inputs: Shape, outputs: int) -> list[int]:
        return [math.prod(inputs), *self.hidden, outputs]
