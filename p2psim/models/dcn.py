"""Deep & Cross Network."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.fields import Dropout, FieldModel, last_width, layer_macs, layer_shapes
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "dcn", "Wang et al. 2017, eq. 3; Launay et al. 2020, section 3.2")
class DCN(FieldModel):
    """Deep and cross network: `cross` cross layers x_l beside hidden layers h_k of widths `hidden`.

        z = w^T (x_L, h_K) + c
        x_0 = h_0 = (v_1, ..., v_m)
        x_{l+1} = x_0 (x_l^T w_l) + b_l + x_l                                               (eq. 3)
        h_k = dropout(ReLU(norm(W_k h_{k-1} + c_k)))

    with embeddings v_i of `dim` numbers and batch norm. Feedback points: the embeddings x_0, each
    cross layer but the last, each hidden layer, and (x_L, h_K). The error is that of z. Launay et
    al. take dim = 16, 6 cross layers, two hidden layers of 1024 and no dropout.
    """

    dim: Count = 8
    hidden: list[Count] = field(default_factory=lambda: [64, 64])
    dropout: Dropout = 0.3
    cross: Annotated[int, Meta(ge=1, le=1000)] = 3

    @property
    def width(self) -> int:
        """Number of entries of x_0."""
        return self.fields * self.dim

    @property
    def joined(self) -> int:
        """Number of entries of (x_L, h_K)."""
        return self.width + last_width(self.width, self.hidden)

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        self.check(inputs, outputs)
        cross = [(self.width,), (1, self.width)] * self.cross
        layers = layer_shapes(self.width, self.hidden)
        return [(self.ids, self.dim), *cross, *layers, (1, self.joined), (1,)]

    def macs(self, inputs: Shape, outputs: int) -> int:
        cross = 2 * self.width * self.cross  # the product x_l^T w_l, and its multiple of x_0
        return cross + layer_macs(self.width, self.hidden) + self.joined

    def widest(self, inputs: Shape, outputs: int) -> int:
        """Return the number of entries of the largest activation of one sample."""
        return max(self.joined, *self.hidden)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models import recommenders

        self.check(inputs, outputs)
        return recommenders.DeepAndCross(
            self.width, self.ids, self.dim, self.hidden, self.dropout, self.cross
        )
