"""Factorization machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2psim.base import Count, Shape
from p2psim.models.fields import FieldModel, linear_shapes, pair_macs
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "fm", "Rendle 2010, eq. 1")
class FM(FieldModel):
    """Factorization machine: products of the embeddings of all pairs of ids.

        z = b + sum_i w_i + sum_{i<j} <v_i, v_j> over the ids i, j of a sample

    v_i are embeddings of `dim` numbers, which start as in Glorot & Bengio 2010; b and w start at 0.
    The sum over pairs is 1/2 sum_f ((sum_i v_if)^2 - sum_i v_if^2), Rendle's lemma 3.1. Launay et
    al. 2020 take dim = 16. The model has no feedback points.
    """

    dim: Count = 8

    precisions = ("fp32",)

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        self.check(inputs, outputs)
        return [*linear_shapes(self.ids), (self.ids, self.dim)]

    def macs(self, inputs: Shape, outputs: int) -> int:
        return self.fields + pair_macs(self.fields, self.dim)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models import recommenders

        self.check(inputs, outputs)
        return recommenders.FactorizationMachine(self.ids, self.dim)
