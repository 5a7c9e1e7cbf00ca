"""Networks as lists of layers, without torch: shapes, costs and the torch module from one list.

A model only has to define `layers`. The cost of a layer is that of one sample in the forward pass,
by the rows of Aketi, Kodge & Roy 2022, section 5 (see cost_model). torch is imported only where
modules are built, so that `p2psim plan` starts fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from p2psim.base import Model, Shape
from p2psim.errors import InputError

if TYPE_CHECKING:
    from torch import nn

NormKind: TypeAlias = Literal["none", "batch", "group", "evonorm", "range-bn", "range-evonorm"]
GROUPED = ("group", "evonorm", "range-evonorm")
EVONORMS = ("evonorm", "range-evonorm")  # nonlinear themselves, hence not followed by ReLU


@dataclass(frozen=True)
class Cost:
    """Cost of the forward pass of one sample; the costs of layers add up."""

    macs: int = 0  # multiplications with an addition
    weights: int = 0  # entries of the weights of convolutions and linear layers
    inputs: int = 0  # entries of the inputs of convolutions and linear layers
    norm_elements: int = 0  # entries that norms followed by ReLU normalize
    channels: int = 0  # channels of norms followed by ReLU
    evonorm_elements: int = 0  # entries that EvoNorms normalize
    evonorm_channels: int = 0
    added: int = 0  # entries of the sums of skip connections
    pooled: int = 0  # entries that enter a mean
    means: int = 0  # entries of means
    uncounted: int = 0  # parameters of norms that the paper leaves out

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Layer:
    """Base of all layers; `inputs` is the shape of one sample at the input of the layer."""

    def out(self, inputs: Shape) -> Shape:
        """Return the shape of one sample at the output of the layer."""
        return inputs

    def shapes(self, inputs: Shape) -> list[Shape]:
        """Return the shapes of the layer's parameters, in torch's order."""
        return []

    def cost(self, inputs: Shape) -> Cost:
        """Return the cost of the forward pass of one sample."""
        return Cost()

    def build(self, inputs: Shape) -> nn.Module:
        """Build the torch module, with initialized parameters."""
        raise NotImplementedError


@dataclass(frozen=True)
class Convolution(Layer):
    """Convolution with square kernels of side k and a padding of k // 2.

    Initialized as torch does, or with `normal` from N(0, 2 / (k^2 channels)).
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    bias: bool = True
    normal: bool = False

    @property
    def padding(self) -> int:
        return self.kernel // 2

    def out(self, inputs: Shape) -> Shape:
        sides = [(side + 2 * self.padding - self.kernel) // self.stride + 1 for side in inputs[1:]]
        return (self.channels, *sides)

    def shapes(self, inputs: Shape) -> list[Shape]:
        weight = (self.channels, inputs[0], self.kernel, self.kernel)
        return [weight, (self.channels,)] if self.bias else [weight]

    def cost(self, inputs: Shape) -> Cost:
        weights = self.channels * inputs[0] * self.kernel**2
        macs = weights * math.prod(self.out(inputs)[1:])
        return Cost(macs, weights, math.prod(inputs))

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        k, stride, padding = self.kernel, self.stride, self.padding
        module = nn.Conv2d(inputs[0], self.channels, k, stride, padding, bias=self.bias)
        if self.normal:
            nn.init.normal_(module.weight, std=math.sqrt(2 / (k * k * self.channels)))
        return module


@dataclass(frozen=True)
class Linear(Layer):
    """Linear layer on the last dimension, with torch's initialization."""

    width: int
    bias: bool = True

    def out(self, inputs: Shape) -> Shape:
        return (*inputs[:-1], self.width)

    def shapes(self, inputs: Shape) -> list[Shape]:
        weight = (self.width, inputs[-1])
        return [weight, (self.width,)] if self.bias else [weight]

    def cost(self, inputs: Shape) -> Cost:
        weights = self.width * inputs[-1]
        return Cost(weights * math.prod(inputs[:-1]), weights, math.prod(inputs))

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.Linear(inputs[-1], self.width, bias=self.bias)


@dataclass(frozen=True)
class Norm(Layer):
    """Norm over channels, followed by ReLU unless the norm is nonlinear itself (see norms).

    `zero`: the scale starts at 0. `shortcut`: no ReLU, and not counted in the cost.
    """

    kind: NormKind
    groups: int = 2
    zero: bool = False
    shortcut: bool = False

    def shapes(self, inputs: Shape) -> list[Shape]:
        if self.kind == "none":
            return []
        if self.kind in GROUPED and inputs[0] % self.groups:
            raise InputError(
                f"model.groups = {self.groups}: does not divide the {inputs[0]} channels of a "
                "norm; give one that does"
            )
        # A single value has no variance and no range.
        if self.kind in GROUPED and math.prod(inputs) < 2 * self.groups:
            raise InputError(
                f"model.groups = {self.groups}: a group of a norm has one value only; give fewer "
                "groups, or larger images"
            )
        return [(inputs[0],)] * (3 if self.kind in EVONORMS else 2)

    def cost(self, inputs: Shape) -> Cost:
        parameters = len(self.shapes(inputs)) * inputs[0]
        if self.shortcut or not parameters:
            return Cost(uncounted=parameters)
        entries, channels = math.prod(inputs), inputs[0]
        if self.kind in EVONORMS:
            # The paper counts two parameters a channel; EvoNorm's third one is v.
            return Cost(evonorm_elements=entries, evonorm_channels=channels, uncounted=channels)
        return Cost(norm_elements=entries, channels=channels)

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        from p2psim.models.norms import make

        self.shapes(inputs)  # checks the groups
        norm = make(self.kind, inputs[0], self.groups)
        if self.zero and self.kind != "none":
            nn.init.zeros_(norm.weight)
        return norm if self.kind in EVONORMS or self.shortcut else nn.Sequential(norm, nn.ReLU())


@dataclass(frozen=True)
class Activation(Layer):
    """Torch module of this name, without parameters, that keeps the shape."""

    name: Literal["ReLU", "Tanh", "GELU", "Dropout"]

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        module: nn.Module = getattr(nn, self.name)()
        return module


@dataclass(frozen=True)
class FeedbackPoint(Layer):
    """Place at which a learning rule such as "dfa" gives feedback; an identity otherwise.

    Put it behind an activation. `batch_dims` is the number of leading axes that count rows, each of
    which receives feedback of its own: 1, or 2 where every token of a sample has its own error.
    """

    batch_dims: int = 1

    def build(self, inputs: Shape) -> nn.Module:
        from p2psim.models import points

        return points.FeedbackPointModule(self.batch_dims)


@dataclass(frozen=True)
class ErrorTap(Layer):
    """Place whose error the feedback points before it receive, in place of that of the outputs.

    `name` is the value of learning.rule.tap that chooses it. `batch_dims` is the number of leading
    axes of the error that count rows, as in FeedbackPoint.
    """

    name: str
    batch_dims: int = 1

    def build(self, inputs: Shape) -> nn.Module:
        from p2psim.models import points

        return points.ErrorTapModule(self.name, self.batch_dims)


@dataclass(frozen=True)
class Flatten(Layer):
    """Reshaping of a sample into one vector."""

    def out(self, inputs: Shape) -> Shape:
        return (math.prod(inputs),)

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.Flatten()


@dataclass(frozen=True)
class MaxPool(Layer):
    """Max-pooling over square windows with a stride of 2; odd windows are padded."""

    kernel: int = 2

    def out(self, inputs: Shape) -> Shape:
        padding = 2 * (self.kernel // 2) if self.kernel % 2 else 0  # of both ends together
        return (inputs[0], *((side + padding - self.kernel) // 2 + 1 for side in inputs[1:]))

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.MaxPool2d(self.kernel, 2, self.kernel // 2 if self.kernel % 2 else 0)


@dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """Mean over all pixels of each channel."""

    def out(self, inputs: Shape) -> Shape:
        return inputs[:1]

    def cost(self, inputs: Shape) -> Cost:
        return Cost(pooled=math.prod(inputs), means=inputs[0])

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@dataclass(frozen=True)
class Residual(Layer):
    """Sum of two branches, main(x) + shortcut(x); an empty shortcut is x itself."""

    main: Sequence[Layer]
    shortcut: Sequence[Layer] = ()

    def out(self, inputs: Shape) -> Shape:
        return output_shape(self.main, inputs)

    def shapes(self, inputs: Shape) -> list[Shape]:
        return [*all_shapes(self.main, inputs), *all_shapes(self.shortcut, inputs)]

    def cost(self, inputs: Shape) -> Cost:
        own = Cost(added=math.prod(self.out(inputs)))
        return own + total_cost(self.main, inputs) + total_cost(self.shortcut, inputs)

    def build(self, inputs: Shape) -> nn.Module:
        from p2psim.models.norms import ResidualModule

        return ResidualModule(build_all(self.main, inputs), build_all(self.shortcut, inputs))


def walk(layers: Sequence[Layer], inputs: Shape) -> Iterator[tuple[Layer, Shape]]:
    """Yield every layer with the shape of one sample at its input; InputError for a class."""
    for layer in layers:
        if isinstance(layer, type):
            raise InputError(
                f"model: the list of layers holds the class {layer.__name__}; write "
                f"{layer.__name__}() with its parameters"
            )
        yield layer, inputs
        inputs = layer.out(inputs)


def output_shape(layers: Sequence[Layer], inputs: Shape) -> Shape:
    """Return the shape of one sample at the output of the last layer."""
    for layer, entering in walk(layers, inputs):
        inputs = layer.out(entering)
    return inputs


def all_shapes(layers: Sequence[Layer], inputs: Shape) -> list[Shape]:
    """Return the parameter shapes of all layers, in torch's order."""
    return [shape for layer, entering in walk(layers, inputs) for shape in layer.shapes(entering)]


def total_cost(layers: Sequence[Layer], inputs: Shape) -> Cost:
    """Return the sum of the costs of all layers."""
    return sum((layer.cost(entering) for layer, entering in walk(layers, inputs)), Cost())


def widest(layers: Sequence[Layer], inputs: Shape) -> int:
    """Return the number of entries of the largest activation of one sample."""
    largest = math.prod(inputs)
    for layer, entering in walk(layers, inputs):
        # A shortcut has the shape of the sum, which is counted as the output of the layer.
        inner = widest(layer.main, entering) if isinstance(layer, Residual) else 0
        largest = max(largest, inner, math.prod(layer.out(entering)))
    return largest


def build_all(layers: Sequence[Layer], inputs: Shape) -> Any:
    """Build all layers as one torch module."""
    from torch import nn

    return nn.Sequential(*(layer.build(entering) for layer, entering in walk(layers, inputs)))


class Layered(Model):
    """Model that is a list of layers; a subclass defines `layers`."""

    def layers(self, inputs: Shape, outputs: int) -> Sequence[Layer]:
        """Return the layers for samples of shape `inputs`; InputError if the shape does not fit."""
        raise NotImplementedError

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        return all_shapes(self.layers(inputs, outputs), inputs)

    def output_shape(self, inputs: Shape, outputs: int) -> Shape:
        """Return the shape of the outputs for one sample."""
        return output_shape(self.layers(inputs, outputs), inputs)

    def cost(self, inputs: Shape, outputs: int) -> Cost:
        """Return the cost of the forward pass of one sample."""
        return total_cost(self.layers(inputs, outputs), inputs)

    def macs(self, inputs: Shape, outputs: int) -> int:
        return self.cost(inputs, outputs).macs

    def widest(self, inputs: Shape, outputs: int) -> int:
        """Return the number of entries of the largest activation of one sample."""
        return widest(self.layers(inputs, outputs), inputs)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        module: nn.Module = build_all(self.layers(inputs, outputs), inputs)
        return module


def check_image_input(model: str, inputs: Shape, least: int = 1, cure: str = "") -> None:
    """Check that samples are images (channels, height, width) of at least `least` x `least` pixels.

    Raises InputError otherwise; its message ends with `cure`.
    """
    if len(inputs) != 3 or min(inputs[1:]) < least:
        raise InputError(
            f"{model}: samples of shape {inputs}; it takes images (channels, height, width) of at "
            f"least {least} x {least}: take model 'mlp' {cure}".rstrip()
        )
