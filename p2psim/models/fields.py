"""Models of categorical fields, without torch: what they share, and the shapes of their parts.

A sample is one id for each of m fields, shape (m,). The ids of all fields follow each other, so
that one table holds the embeddings of all fields. E, shape (m, dim), are those of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, TypeAlias

from msgspec import Meta

from p2psim.base import DataSpec, Model, Shape
from p2psim.errors import InputError

Dropout: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]


class FieldModel(Model):
    """Base of models that give one logit for the ids of categorical fields."""

    samples = "fields"

    def __post_init__(self) -> None:
        self.vocabulary: list[int] = []  # until `bind`

    def bind(self, spec: DataSpec, folder: Path) -> None:
        assert not isinstance(spec.vocabulary, int)
        self.vocabulary = list(spec.vocabulary)

    @property
    def ids(self) -> int:
        """Number of the ids of all fields."""
        return sum(self.vocabulary)

    @property
    def fields(self) -> int:
        """Number of fields, m."""
        return len(self.vocabulary)

    @property
    def smallest_batch(self) -> int:
        """Number of samples that a minibatch needs: 2 for the batch norms of hidden layers."""
        return 2 if getattr(self, "hidden", ()) else 1

    def check(self, inputs: Shape, outputs: int) -> None:
        """Check that samples are the fields, and that one logit is needed; InputError otherwise."""
        if inputs != (self.fields,) or outputs != 1:
            raise InputError(
                f"model: samples of shape {inputs} with {outputs} outputs; this model takes one id "
                f"for each of {self.fields} fields and has one output: take data 'criteo'"
            )


def linear_shapes(ids: int) -> list[Shape]:
    """Return the shapes of the bias, and of a weight for each id."""
    return [(1,), (ids, 1)]


def layer_shapes(inputs: int, hidden: Sequence[int]) -> list[Shape]:
    """Return the shapes of hidden layers: weights and bias, scale and shift of the norm."""
    widths = pairwise([inputs, *hidden])
    return [shape for low, high in widths for shape in ((high, low), *[(high,)] * 3)]


def layer_macs(inputs: int, hidden: Sequence[int]) -> int:
    """Return the multiply-add operations of hidden layers."""
    return sum(low * high for low, high in pairwise([inputs, *hidden]))


def pair_macs(fields: int, dim: int) -> int:
    """Return the multiply-add operations of the products of all pairs of embeddings.

    These are a square for each entry of the sum of all embeddings, and one for each entry of each
    embedding.
    """
    return (fields + 1) * dim


def last_width(inputs: int, hidden: Sequence[int]) -> int:
    """Return the width of the last hidden layer, or of the inputs if there is none."""
    return hidden[-1] if hidden else inputs
