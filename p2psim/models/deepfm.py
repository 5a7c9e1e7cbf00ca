"""Factorization machine and network on the same embeddings."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.fields import (
    Dropout,
    FieldModel,
    layer_macs,
    layer_shapes,
    linear_shapes,
    pair_macs,
)
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "deepfm", "Guo et al. 2017, eqs. 1-4; Launay et al. 2020, section 3.2")
class DeepFM(FieldModel):
    """Factorization machine, the model "fm", plus a network on its embeddings.

        z = z_FM + z_deep
        a_0 = (v_1, ..., v_m),  a_l = dropout(ReLU(norm(W_l a_{l-1} + b_l))),  z_deep = w^T a_L + c

    with batch norm and the widths `hidden` of the layers. A feedback point follows each layer, and
    the tap "mlp" takes the error of z_deep. With a rule that acts at these points, z_FM is trained
    exactly, and the embeddings learn from z_FM alone. Launay et al. take dim = 10, three layers of
    400 and dropout 0.5.
    """

    dim: Count = 8
    hidden: Annotated[list[Count], Meta(min_length=1)] = field(default_factory=lambda: [64, 64])
    dropout: Dropout = 0.3

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        self.check(inputs, outputs)
        layers = layer_shapes(self.fields * self.dim, self.hidden)
        last = [(1, self.hidden[-1]), (1,)]
        return [*linear_shapes(self.ids), (self.ids, self.dim), *layers, *last]

    def macs(self, inputs: Shape, outputs: int) -> int:
        shallow = self.fields + pair_macs(self.fields, self.dim)
        return shallow + layer_macs(self.fields * self.dim, [*self.hidden, 1])

    def widest(self, inputs: Shape, outputs: int) -> int:
        """Return the number of entries of the largest activation of one sample."""
        return max(self.fields * self.dim, *self.hidden)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models import recommenders

        self.check(inputs, outputs)
        return recommenders.DeepFactorizationMachine(
            self.fields, self.ids, self.dim, self.hidden, self.dropout
        )
