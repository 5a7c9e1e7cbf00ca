"""Networks as lists of layers, without torch: shapes, costs and the torch module from one list.

A model that gives its `layers` need say nothing else. What a layer costs is counted per sample of
the forward pass, by the rows of Aketi, Kodge & Roy 2022, section 5 (see accounting).
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
IN_GROUPS = ("group", "evonorm", "range-evonorm")
GATED = ("evonorm", "range-evonorm")  # these are nonlinear themselves: no ReLU behind them


@dataclass(frozen=True)
class Cost:
    """What the forward pass of one sample takes; layers add up."""

    macs: int = 0  # multiplications with an addition
    weights: int = 0  # entries of what convolutions and linear layers multiply with
    taken: int = 0  # entries of the activations that enter them
    normed: int = 0  # entries of what norms with ReLU normalize
    channels: int = 0  # and their channels
    gated: int = 0  # of EvoNorms
    gates: int = 0
    added: int = 0  # entries of a skip connection's sum
    pooled: int = 0  # entries that are averaged
    means: int = 0  # and what remains of them
    aside: int = 0  # parameters of norms that the paper's account leaves out

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Layer:
    """One layer; `inputs` is the shape of one sample that enters it."""

    def out(self, inputs: Shape) -> Shape:
        """The shape of what leaves it."""
        return inputs

    def shapes(self, inputs: Shape) -> list[Shape]:
        """Its parameters, in torch's order."""
        return []

    def cost(self, inputs: Shape) -> Cost:
        return Cost()

    def build(self, inputs: Shape) -> nn.Module:
        raise NotImplementedError


@dataclass(frozen=True)
class Convolution(Layer):
    """Square kernels; initialized as torch does, or with `normal` from N(0, 2 / (k^2 channels))."""

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
        made = nn.Conv2d(inputs[0], self.channels, k, stride, padding, bias=self.bias)
        if self.normal:
            nn.init.normal_(made.weight, std=math.sqrt(2 / (k * k * self.channels)))
        return made


@dataclass(frozen=True)
class Linear(Layer):
    """On the last dimension; torch's initialization."""

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
    """A norm over channels and, where it is not nonlinear itself, ReLU behind it (see norms).

    `zero`: its scale starts at 0. `shortcut`: no ReLU, and left out of the paper's account.
    """

    kind: NormKind
    groups: int = 2
    zero: bool = False
    shortcut: bool = False

    def shapes(self, inputs: Shape) -> list[Shape]:
        if self.kind == "none":
            return []
        if self.kind in IN_GROUPS and inputs[0] % self.groups:
            raise InputError(
                f"model.groups = {self.groups}: does not divide the {inputs[0]} channels of a "
                "norm; give one that does"
            )
        if self.kind in IN_GROUPS and math.prod(inputs) < 2 * self.groups:
            raise InputError(
                f"model.groups = {self.groups}: a group of a norm has one value only; give fewer "
                "groups, or larger images"
            )
        return [(inputs[0],)] * (3 if self.kind in GATED else 2)

    def cost(self, inputs: Shape) -> Cost:
        parameters = len(self.shapes(inputs)) * inputs[0]
        if self.shortcut or not parameters:
            return Cost(aside=parameters)
        entries, channels = math.prod(inputs), inputs[0]
        if self.kind in GATED:
            return Cost(gated=entries, gates=channels, aside=channels)
        return Cost(normed=entries, channels=channels)

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        from p2psim.models.norms import make

        self.shapes(inputs)
        norm = make(self.kind, inputs[0], self.groups)
        if self.zero and self.kind != "none":
            nn.init.zeros_(norm.weight)
        return norm if self.kind in GATED or self.shortcut else nn.Sequential(norm, nn.ReLU())


@dataclass(frozen=True)
class Activation(Layer):
    """A torch module without parameters that keeps the shape, by name."""

    name: Literal["ReLU", "Tanh", "GELU", "Dropout"]

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        made: nn.Module = getattr(nn, self.name)()
        return made


@dataclass(frozen=True)
class Flatten(Layer):
    """A sample as one vector."""

    def out(self, inputs: Shape) -> Shape:
        return (math.prod(inputs),)

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.Flatten()


@dataclass(frozen=True)
class MaxPool(Layer):
    """Square windows, a stride of 2."""

    kernel: int = 2

    def out(self, inputs: Shape) -> Shape:
        reach = 2 * (self.kernel // 2) if self.kernel % 2 else 0  # odd windows are padded
        return (inputs[0], *((side + reach - self.kernel) // 2 + 1 for side in inputs[1:]))

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.MaxPool2d(self.kernel, 2, self.kernel // 2 if self.kernel % 2 else 0)


@dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """The mean over all pixels."""

    def out(self, inputs: Shape) -> Shape:
        return inputs[:1]

    def cost(self, inputs: Shape) -> Cost:
        return Cost(pooled=math.prod(inputs), means=inputs[0])

    def build(self, inputs: Shape) -> nn.Module:
        from torch import nn

        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@dataclass(frozen=True)
class Residual(Layer):
    """main(x) + shortcut(x); an empty shortcut is x itself."""

    main: Sequence[Layer]
    shortcut: Sequence[Layer] = ()

    def out(self, inputs: Shape) -> Shape:
        return through(self.main, inputs)

    def shapes(self, inputs: Shape) -> list[Shape]:
        return [*all_shapes(self.main, inputs), *all_shapes(self.shortcut, inputs)]

    def cost(self, inputs: Shape) -> Cost:
        own = Cost(added=math.prod(self.out(inputs)))
        return own + total(self.main, inputs) + total(self.shortcut, inputs)

    def build(self, inputs: Shape) -> nn.Module:
        from p2psim.models.norms import Residual as Branches

        return Branches(built(self.main, inputs), built(self.shortcut, inputs))


def walk(layers: Sequence[Layer], inputs: Shape) -> Iterator[tuple[Layer, Shape]]:
    """Every layer with the shape that enters it."""
    for layer in layers:
        yield layer, inputs
        inputs = layer.out(inputs)


def through(layers: Sequence[Layer], inputs: Shape) -> Shape:
    """The shape of what leaves the last layer."""
    for layer in layers:
        inputs = layer.out(inputs)
    return inputs


def all_shapes(layers: Sequence[Layer], inputs: Shape) -> list[Shape]:
    """Parameters of all layers."""
    return [shape for layer, entering in walk(layers, inputs) for shape in layer.shapes(entering)]


def total(layers: Sequence[Layer], inputs: Shape) -> Cost:
    """Cost of all layers."""
    return sum((layer.cost(entering) for layer, entering in walk(layers, inputs)), Cost())


def widest(layers: Sequence[Layer], inputs: Shape) -> int:
    """Entries of the largest activation of a sample."""
    most = math.prod(inputs)
    for layer, entering in walk(layers, inputs):
        inner = widest(layer.main, entering) if isinstance(layer, Residual) else 0
        most = max(most, inner, math.prod(layer.out(entering)))
    return most


def built(layers: Sequence[Layer], inputs: Shape) -> Any:
    """All layers as one torch module."""
    from torch import nn

    return nn.Sequential(*(layer.build(entering) for layer, entering in walk(layers, inputs)))


class Layered(Model):
    """A model that is a list of layers."""

    def layers(self, inputs: Shape, outputs: int) -> Sequence[Layer]:
        """From a sample to the outputs; InputError where such samples cannot be taken."""
        raise NotImplementedError

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        return all_shapes(self.layers(inputs, outputs), inputs)

    def cost(self, inputs: Shape, outputs: int) -> Cost:
        """What the forward pass of a sample takes."""
        return total(self.layers(inputs, outputs), inputs)

    def macs(self, inputs: Shape, outputs: int) -> int:
        return self.cost(inputs, outputs).macs

    def widest(self, inputs: Shape, outputs: int) -> int:
        """Entries of the largest activation of a sample."""
        return widest(self.layers(inputs, outputs), inputs)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        module: nn.Module = built(self.layers(inputs, outputs), inputs)
        return module


def check_image_input(model: str, inputs: Shape, least: int = 1, cure: str = "") -> None:
    """InputError unless samples are images (channels, height, width) of at least so many pixels."""
    if len(inputs) != 3 or min(inputs[1:]) < least:
        raise InputError(
            f"{model}: samples of shape {inputs}; it takes images (channels, height, width) of at "
            f"least {least} x {least}: take model 'mlp' {cure}".rstrip()
        )
