"""Graph attention network."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.graph import GraphModel
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn

Rate = Annotated[float, Meta(ge=0, lt=1)]


@plugin("model", "gat", "Velickovic et al. 2018, eqs. (3), (5) and (6)")
class GAT(GraphModel):
    """Graph attention network of two layers.

        h'_i = sum_j alpha_ij W h_j + b over the neighbors j of i, and i itself
        alpha_ij = softmax_j LeakyReLU(a_target . W h_i + a_source . W h_j), with slope 0.2

    Layer 1 has `heads` such sums of width `hidden` side by side, then ELU; layer 2 has one, whose
    width is the number of classes. `dropout` acts on the inputs of each layer, attention_dropout on
    the alpha of layers 1 and 2. A feedback point is behind ELU, before dropout. Weights start as
    those of Glorot & Bengio 2010, biases from 0. The tap "nodes" takes the error of the outputs of
    all nodes.
    """

    hidden: Count = 8
    heads: Count = 8
    dropout: Rate = 0.6
    attention_dropout: tuple[Rate, Rate] = field(default=(0.6, 0.6))

    def layer_shapes(self, features: int, outputs: int) -> list[Shape]:
        joint = self.heads * self.hidden
        weights: list[Shape] = [(features, joint), (joint, outputs)]
        first: list[Shape] = [*[(self.heads, self.hidden)] * 2, (joint,)]
        return [*weights, *first, (1, outputs), (1, outputs), (outputs,)]

    def network(self, features: int, outputs: int) -> nn.Module:
        from p2psim.models.attention_graphs import GATNetwork

        return GATNetwork(
            self.context,
            (features, self.hidden, self.heads, outputs),
            self.dropout,
            self.attention_dropout,
        )
