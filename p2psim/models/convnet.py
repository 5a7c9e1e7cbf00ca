"""A small convolutional network with norms, for digits and MNIST."""

from __future__ import annotations

from dataclasses import field

from p2psim.base import Count, Shape
from p2psim.errors import InputError
from p2psim.models.layers import (
    Convolution,
    Flatten,
    Layer,
    Layered,
    Linear,
    Norm,
    NormKind,
    check_image_input,
)
from p2psim.registry import plugin


@plugin("model", "convnet")
class ConvNet(Layered):
    """3 x 3 convolution and norm for each of `channels`, from the second on with stride 2.

    Then one dense layer. Norms as in `resnet`: those without a nonlinearity of their own have ReLU
    behind them. Convolutions have no bias where there are norms; torch's initialization.
    """

    channels: list[Count] = field(default_factory=lambda: [8, 16])
    norm: NormKind = "evonorm"
    groups: Count = 2

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        check_image_input("convnet", inputs)
        if not self.channels:
            raise InputError("convnet: channels = []; give at least one, or take model 'linear'")
        layers: list[Layer] = []
        for number, channels in enumerate(self.channels):
            stride, bias = 2 if number else 1, self.norm == "none"
            layers += [Convolution(channels, stride=stride, bias=bias)]
            layers += [Norm(self.norm, self.groups)]
        return [*layers, Flatten(), Linear(outputs)]
