"""Small convolutional network with norms, for digits and MNIST."""

from __future__ import annotations

from dataclasses import field

from p2psim.base import Count, Shape
from p2psim.errors import InputError
from p2psim.models.layers import (
    Convolution,
    FeedbackPoint,
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

    One dense layer follows. Norms are those of `resnet`: a norm without a nonlinearity of its own
    is followed by ReLU. Convolutions have a bias only with norm = "none". The initialization is
    torch's.
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
            layers += [Norm(self.norm, self.groups), FeedbackPoint()]
        return [*layers, Flatten(), Linear(outputs)]
