"""VGG-11 for images of 32 x 32 and more."""

from __future__ import annotations

from typing import Literal

from p2psim.base import Count, Shape
from p2psim.models.layers import (
    Activation,
    Convolution,
    FeedbackPoint,
    Flatten,
    GlobalAveragePool,
    Layer,
    Layered,
    Linear,
    MaxPool,
    Norm,
    NormKind,
    check_image_input,
    output_shape,
)
from p2psim.registry import plugin

# Output channels in Simonyan & Zisserman 2015, configuration A; 0 stands for 2 x 2 max-pooling.
CONVOLUTIONS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
WIDTH = 512  # channels after the last convolution


@plugin("model", "vgg11", "Simonyan & Zisserman 2015, A; heads of Xu 2021 and Aketi et al. 2022")
class VGG11(Layered):
    """Eight 3 x 3 convolutions with ReLU, five 2 x 2 max-poolings, then a dense head.

    For images larger than 32 x 32 the head takes the mean over the remaining pixels.

    head = "linear" is that of Xu: one layer of 512 to the classes, torch's initialization;
    9,225,610 parameters for CIFAR-10. head = "hidden" is that of Aketi et al.: dropout 1/2, 512 to
    512, ReLU, 512 to the classes, convolutions from N(0, 2 / (9 output channels)); 9,488,266
    parameters, and 9,496,522 with their norm = "evonorm" or "range-evonorm" in place of ReLU.
    """

    head: Literal["linear", "hidden"] = "linear"
    norm: NormKind = "none"
    groups: Count = 2

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        check_image_input("vgg11", inputs, least=32)
        hidden = self.head == "hidden"
        layers: list[Layer] = []
        for channels, following in zip(CONVOLUTIONS, (*CONVOLUTIONS[1:], 1), strict=True):
            if channels:
                layers += [Convolution(channels, normal=hidden), Norm(self.norm, self.groups)]
            else:
                layers.append(MaxPool())
            if following:  # a point before a pooling would have feedback for dropped entries
                layers.append(FeedbackPoint())
        layers.append(
            Flatten() if output_shape(layers, inputs)[1:] == (1, 1) else GlobalAveragePool()
        )
        if hidden:
            layers += [Activation("Dropout"), Linear(WIDTH), Activation("ReLU"), FeedbackPoint()]
        return [*layers, Linear(outputs)]
