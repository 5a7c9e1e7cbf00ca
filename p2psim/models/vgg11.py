"""VGG-11 for images of 32 x 32."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from p2psim.base import Model, Shape
from p2psim.errors import InputError
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch

# Simonyan & Zisserman 2015, configuration A; 0: 2 x 2 max-pooling.
CONVOLUTIONS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
WIDTH = 512  # of what they leave


@plugin("model", "vgg11", "Simonyan & Zisserman 2015, A; heads of Xu 2021 and Aketi et al. 2022")
class VGG11(Model):
    """Eight 3 x 3 convolutions, ReLU, five 2 x 2 max-poolings, no norms.

    head = "linear" is Xu's: one layer of 512 to the classes, torch's initialization; 9,225,610
    parameters for CIFAR-10. head = "hidden" is Aketi's: dropout 1/2, 512 to 512, ReLU, 512 to the
    classes, convolutions from N(0, 2 / (9 channels out)); 9,488,266 parameters.
    """

    head: Literal["linear", "hidden"] = "linear"

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        channels = self._channels(inputs)
        shapes: list[Shape] = []
        for before, after in pairwise(channels):
            shapes += [(after, before, 3, 3), (after,)]
        shapes += [(WIDTH, WIDTH), (WIDTH,)] * (self.head == "hidden")
        return [*shapes, (outputs, WIDTH), (outputs,)]

    def macs(self, inputs: Shape, outputs: int) -> int:
        total = WIDTH * outputs + WIDTH * WIDTH * (self.head == "hidden")
        before, side = self._channels(inputs)[0], inputs[1]
        for after in CONVOLUTIONS:
            if not after:
                side //= 2
                continue
            total += before * after * 9 * side * side
            before = after
        return total

    def build(self, inputs: Shape, outputs: int) -> torch.nn.Module:
        from torch import nn

        layers: list[nn.Module] = []
        before = self._channels(inputs)[0]
        for after in CONVOLUTIONS:
            if not after:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            before = after
        layers.append(nn.Flatten())
        if self.head == "hidden":
            for layer in layers:
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=(2 / (9 * layer.out_channels)) ** 0.5)
            layers += [nn.Dropout(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(WIDTH, outputs))

    def _channels(self, inputs: Shape) -> list[int]:
        """Channels of the sample and of what each convolution leaves."""
        if len(inputs) != 3 or inputs[1:] != (32, 32):
            raise InputError(
                f"vgg11: samples of shape {inputs}; it takes images (channels, 32, 32): take model "
                "'cnn' or 'mlp'"
            )
        return [inputs[0], *(after for after in CONVOLUTIONS if after)]
