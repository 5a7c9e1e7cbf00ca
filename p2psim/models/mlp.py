"""Multilayer perceptron."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from p2psim.base import Count, Shape
from p2psim.models.layers import Activation, FeedbackPoint, Flatten, Layer, Layered, Linear
from p2psim.registry import plugin


@plugin("model", "mlp")
class MLP(Layered):
    """Fully connected layers of the widths `hidden`, on the flattened sample.

    The default, 200-200 with ReLU, is the network of McMahan et al. 2017 ("2NN"); the
    initialization is torch's.
    """

    hidden: list[Count] = field(default_factory=lambda: [200, 200])
    activation: Literal["relu", "tanh"] = "relu"

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        layers: list[Layer] = [Flatten()]
        for width in self.hidden:
            activation = Activation("ReLU" if self.activation == "relu" else "Tanh")
            layers += [Linear(width), activation, FeedbackPoint()]
        return [*layers, Linear(outputs)]
