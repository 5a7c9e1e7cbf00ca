"""Layers of networks on token ids, without torch: shapes and costs.

A sample is a text of token ids, (length,), and behind the embedding (length, width). These layers
cannot be built: the torch modules are in `attention`, or in the transformers library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from p2psim.base import DataSpec, Shape
from p2psim.errors import InputError
from p2psim.models.layers import Cost, Layer, Layered, Linear


@dataclass(frozen=True)
class Embedding(Layer):
    """Learned vector for each token id, plus one for each position if `positions` > 0."""

    vocabulary: int
    width: int
    positions: int = 0

    def out(self, inputs: Shape) -> Shape:
        return (*inputs, self.width)

    def shapes(self, inputs: Shape) -> list[Shape]:
        rows = [self.vocabulary, self.positions] if self.positions else [self.vocabulary]
        return [(count, self.width) for count in rows]


class LayerNorm(Layer):
    """Norm over the entries of each token; the paper has no row for it, so it is not counted."""

    def shapes(self, inputs: Shape) -> list[Shape]:
        return [inputs[-1:]] * 2

    def cost(self, inputs: Shape) -> Cost:
        return Cost(uncounted=2 * inputs[-1])


class Attention(Layer):
    """Self-attention: queries, keys, values, softmax(q k^T) v and a linear layer.

    Shapes and cost do not depend on the number of heads.
    """

    def shapes(self, inputs: Shape) -> list[Shape]:
        return Linear(inputs[-1]).shapes(inputs) * 4

    def cost(self, inputs: Shape) -> Cost:
        length, width = inputs
        projection = Linear(width).cost(inputs)
        projections = projection + projection + projection + projection
        return projections + Cost(macs=2 * length * length * width)


class TokenMean(Layer):
    """Mean over all tokens."""

    def out(self, inputs: Shape) -> Shape:
        return inputs[1:]

    def cost(self, inputs: Shape) -> Cost:
        return Cost(pooled=math.prod(inputs), means=inputs[-1])


class FirstToken(Layer):
    """Selection of the first token."""

    def out(self, inputs: Shape) -> Shape:
        return inputs[1:]


class TokenModel(Layered):
    """Base of models that are lists of layers and whose samples are texts of token ids."""

    samples = "tokens"

    def __post_init__(self) -> None:
        self.vocabulary = 0  # until `bind`

    def bind(self, spec: DataSpec, folder: Path) -> None:
        self.vocabulary = vocabulary_size(spec)


def check_text_input(model: str, inputs: Shape) -> None:
    """Check that samples are texts; InputError otherwise."""
    if len(inputs) != 1:
        raise InputError(
            f"{model}: samples of shape {inputs}; it takes texts of shape (length,): take data "
            "'ag-news', 'senteval-length' or 'text'"
        )


def check_heads(heads: int, width: int, key: str) -> None:
    """Check that the number of heads divides the width; InputError otherwise.

    `key` is the key of the experiment file, or the file, that sets the number.
    """
    if width % heads:
        raise InputError(
            f"{key} = {heads}: does not divide the width of {width}; give one that does"
        )


def vocabulary_size(spec: DataSpec) -> int:
    """Return the number of token ids of a data set of texts."""
    assert isinstance(spec.vocabulary, int)
    return spec.vocabulary
