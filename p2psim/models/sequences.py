"""Layers of networks that take token ids, without torch: shapes and costs.

A sample is a text of shape (length,), then (length, width). The torch modules are those of
`attention`, or of another library: here nothing is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from p2psim.base import Shape
from p2psim.errors import InputError
from p2psim.models.layers import Cost, Layer, Linear


@dataclass(frozen=True)
class Embedding(Layer):
    """A vector for each id; with `positions` also one, learned, for each of so many places."""

    vocabulary: int
    width: int
    positions: int = 0

    def out(self, inputs: Shape) -> Shape:
        return (*inputs, self.width)

    def shapes(self, inputs: Shape) -> list[Shape]:
        rows = [self.vocabulary, self.positions] if self.positions else [self.vocabulary]
        return [(count, self.width) for count in rows]


class LayerNorm(Layer):
    """Over each token's entries. It has no row in the paper's account, which leaves it out."""

    def shapes(self, inputs: Shape) -> list[Shape]:
        return [inputs[-1:]] * 2

    def cost(self, inputs: Shape) -> Cost:
        return Cost(aside=2 * inputs[-1])


class Attention(Layer):
    """Queries, keys, values, softmax(q k^T) v, and a linear layer behind; for any heads."""

    def shapes(self, inputs: Shape) -> list[Shape]:
        return Linear(inputs[-1]).shapes(inputs) * 4

    def cost(self, inputs: Shape) -> Cost:
        length, width = inputs
        one = Linear(width).cost(inputs)
        return one + one + one + one + Cost(macs=2 * length * length * width)


class TokenMean(Layer):
    """The mean over all tokens."""

    def out(self, inputs: Shape) -> Shape:
        return inputs[1:]

    def cost(self, inputs: Shape) -> Cost:
        return Cost(pooled=math.prod(inputs), means=inputs[-1])


class FirstToken(Layer):
    """The first token alone."""

    def out(self, inputs: Shape) -> Shape:
        return inputs[1:]


def check_text_input(model: str, inputs: Shape) -> None:
    """InputError unless samples are texts."""
    if len(inputs) != 1:
        raise InputError(
            f"{model}: samples of shape {inputs}; it takes texts of shape (length,): take data "
            "'ag-news' or 'senteval-length'"
        )


def divides(heads: int, width: int, where: str) -> None:
    """InputError unless every head gets the same share of the width."""
    if width % heads:
        raise InputError(
            f"{where} = {heads}: does not divide the width of {width}; give one that does"
        )
