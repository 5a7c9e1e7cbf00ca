"""Residual networks: ResNets of depth 6n + 2 for small images, and ResNet-18."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.layers import (
    Convolution,
    FeedbackPoint,
    GlobalAveragePool,
    Layer,
    Layered,
    Linear,
    MaxPool,
    Norm,
    NormKind,
    Residual,
    check_image_input,
)
from p2psim.registry import plugin


@dataclass(kw_only=True, eq=False)
class ResidualNetwork(Layered):
    """Base of residual networks: common parameters, convolutions, stages of basic blocks.

    `norm` is the kind of all norms, `groups` the number of channel groups of each norm.
    """

    norm: NormKind = "evonorm"
    groups: Count = 2
    zero_scale: bool = False

    def conv(self, channels: int, kernel: int = 3, stride: int = 1) -> Convolution:
        """Return a convolution without bias to `channels` channels.

        Its weights start normal with mean 0 and variance 2 / (kernel^2 channels).
        """
        return Convolution(channels, kernel, stride, bias=False, normal=True)

    def basic_blocks(self, width: int, stages: int, blocks: int, entering: int) -> list[Layer]:
        """Return the basic blocks of all stages in one list, `blocks` for each of `stages` stages.

        The input has `entering` channels, the first stage `width`. Each further stage doubles the
        channels and halves the sides of the image.
        """
        layers: list[Layer] = []
        for number in range(stages * blocks):
            channels = width * 2 ** (number // blocks)
            # The first block of each further stage halves the image.
            stride = 2 if number >= blocks and number % blocks == 0 else 1
            main = [
                *(self.conv(channels, stride=stride), Norm(self.norm, self.groups)),
                FeedbackPoint(),
                *(self.conv(channels), Norm(self.norm, self.groups, zero=self.zero_scale)),
            ]
            changes_shape = stride > 1 or channels != entering
            norm = Norm(self.norm, self.groups, shortcut=True)
            shortcut = [self.conv(channels, 1, stride), norm] if changes_shape else []
            layers += [Residual(main, shortcut), FeedbackPoint()]
            entering = channels
        return layers


@plugin("model", "resnet", "He et al. 2016, section 4.2; Aketi, Kodge & Roy 2022, section 5")
class ResNet(ResidualNetwork):
    """ResNet for small images: a 3 x 3 stem and three stages of int((depth - 2) / 6) blocks each.

    Other depths than 6k + 2 are rounded down: the paper's depth = 54 builds depth 50. The stages
    have width, 2 width and 4 width channels; the mean over all pixels and one dense layer follow.
    For CIFAR-10, width = 16 and norm = "evonorm" or "range-evonorm" there are 273,258 parameters
    with depth = 20 and 760,458 with depth = 54. A block computes x + norm(conv(norm(conv(x)))) with
    3 x 3 convolutions; a 1 x 1 convolution and a norm act on x where the shape changes; nothing
    follows the sum. A norm without a nonlinearity of its own is followed by ReLU, except on x.
    `zero_scale`: the last norm of each block starts with a scale of 0. Convolutions have no bias
    and start from N(0, 2 / (k^2 output channels)).
    """

    depth: Annotated[int, Meta(ge=8, le=10_000)] = 20
    width: Count = 16

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        check_image_input("resnet", inputs, least=4)
        blocks = (self.depth - 2) // 6
        stem = [self.conv(self.width), Norm(self.norm, self.groups), FeedbackPoint()]
        return [
            *stem,
            *self.basic_blocks(self.width, 3, blocks, self.width),
            GlobalAveragePool(),
            Linear(outputs),
        ]


@plugin("model", "resnet18", "He et al. 2016, table 1")
class ResNet18(ResidualNetwork):
    """ResNet-18 for images such as Imagenette's: four stages of two blocks, from `width` channels.

    Unlike the paper, nothing follows the sum of a block, and the norm is "evonorm" by default.
    The stem is a 7 x 7 convolution with stride 2, a norm and a 3 x 3 max-pooling with stride 2.
    Blocks, norms and initialization as in `resnet`.
    """

    width: Count = 64

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        check_image_input("resnet18", inputs, least=32)
        norm = Norm(self.norm, self.groups)
        stem = [self.conv(self.width, 7, 2), norm, MaxPool(3), FeedbackPoint()]
        return [
            *stem,
            *self.basic_blocks(self.width, 4, 2, self.width),
            GlobalAveragePool(),
            Linear(outputs),
        ]
