"""Small convolutional network."""

from __future__ import annotations

from dataclasses import field

from p2psim.base import Count, Natural, Shape
from p2psim.errors import InputError
from p2psim.models.layers import (
    Activation,
    Convolution,
    FeedbackPoint,
    Flatten,
    Layer,
    Layered,
    Linear,
    MaxPool,
    check_image_input,
)
from p2psim.registry import plugin


@plugin("model", "cnn")
class CNN(Layered):
    """3 x 3 convolution, ReLU, 2 x 2 max-pooling for each of `channels`; then two dense layers.

    With hidden = 0 it is one dense layer, without hidden units.
    Takes images (channels, height, width). Height and width are at least 2 to the power of the
    number of convolutions, because each max-pooling halves them. The initialization is torch's.
    """

    channels: list[Count] = field(default_factory=lambda: [16, 32])
    hidden: Natural = 64

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        if not self.channels:
            raise InputError("cnn: channels = []; give at least one, or take model 'mlp'")
        check_image_input("cnn", inputs, least=1 << len(self.channels), cure="or fewer channels")
        layers: list[Layer] = []
        for channels in self.channels:
            layers += [Convolution(channels), Activation("ReLU"), MaxPool(), FeedbackPoint()]
        dense = [Linear(self.hidden), Activation("ReLU"), FeedbackPoint()] if self.hidden else []
        return [*layers, Flatten(), *dense, Linear(outputs)]
