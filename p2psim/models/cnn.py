"""A small convolutional network."""

from __future__ import annotations

from dataclasses import field
from itertools import pairwise
from typing import TYPE_CHECKING

from p2psim.base import Count, Model, Shape
from p2psim.errors import InputError
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("model", "cnn")
class CNN(Model):
    """3 x 3 convolution, ReLU, 2 x 2 max-pooling for each of `channels`; then two dense layers.

    Takes images (channels, height, width) whose sides are at least 2 to the power of the number
    of convolutions; the initialization is torch's.
    """

    channels: list[Count] = field(default_factory=lambda: [16, 32])
    hidden: Count = 64

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        flat = self._flat(inputs)
        shapes: list[Shape] = []
        for before, after in pairwise([inputs[0], *self.channels]):
            shapes += [(after, before, 3, 3), (after,)]
        return [*shapes, (self.hidden, flat), (self.hidden,), (outputs, self.hidden), (outputs,)]

    def macs(self, inputs: Shape, outputs: int) -> int:
        total, (before, height, width) = self.hidden * (self._flat(inputs) + outputs), inputs
        for after in self.channels:
            total += before * after * 9 * height * width
            before, height, width = after, height // 2, width // 2
        return total

    def build(self, inputs: Shape, outputs: int) -> torch.nn.Module:
        from torch import nn

        flat = self._flat(inputs)
        layers: list[nn.Module] = []
        for before, after in pairwise([inputs[0], *self.channels]):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Flatten(), nn.Linear(flat, self.hidden), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(self.hidden, outputs))

    def _flat(self, inputs: Shape) -> int:
        """Values that the convolutions leave of a sample."""
        if not self.channels:
            raise InputError("cnn: channels = []; give at least one, or take model 'mlp'")
        least = 1 << len(self.channels)
        if len(inputs) != 3 or min(inputs[1:]) < least:
            raise InputError(
                f"cnn: samples of shape {inputs}; it takes images (channels, height, width) of at "
                f"least {least} x {least}: take model 'mlp' or fewer channels"
            )
        return self.channels[-1] * (inputs[1] // least) * (inputs[2] // least)
