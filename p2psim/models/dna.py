"""Graph network that attends to all earlier layers of each neighbor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.errors import InputError
from p2psim.models.graph import GraphModel
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn

Rate = Annotated[float, Meta(ge=0, lt=1)]


@plugin("model", "dna", "Fey 2019, eqs. (3) and (4)")
class DNA(GraphModel):
    """Dynamic neighborhood aggregation: attention to the outputs of all earlier layers.

        h_i^(t) = ReLU(sum_j C_ij attention(h_i^(t-1), H_j, H_j)),  H_j = (h_j^(0), ..., h_j^(t-1))

    over the neighbors j of i, and i itself. h^(0) = ReLU(X W + b), and a dense layer follows
    h^(depth). C = D^(-1/2) (A + I) D^(-1/2). attention(q, K, V) has `heads` heads and a softmax
    with one more score of 0. Its queries, keys and values are linear maps of `groups` pieces of
    `width`. `dropout` acts on h^(0) and h^(depth), `attention_dropout` on the weights of the
    attention. Feedback points are behind each ReLU. The tap "nodes" takes the error of the
    outputs of all nodes.
    """

    width: Count = 128
    depth: Annotated[int, Meta(ge=1, le=1000)] = 5
    heads: Count = 8
    groups: Count = 16
    dropout: Rate = 0.5
    attention_dropout: Rate = 0.8

    def layer_shapes(self, features: int, outputs: int) -> list[Shape]:
        for key, value in (("heads", self.heads), ("groups", self.groups)):
            if self.width % value:
                raise InputError(
                    f"model.{key} = {value}: does not divide the width of {self.width}; give one "
                    "that does"
                )
        piece = self.width // self.groups
        linear: list[Shape] = [(self.groups, piece, piece), (self.width,)]
        ends: list[Shape] = [(features, self.width), (self.width,), (self.width, outputs)]
        return [*ends, (outputs,), *linear * 3 * self.depth]

    def network(self, features: int, outputs: int) -> nn.Module:
        from p2psim.models.attention_graphs import DNANetwork

        return DNANetwork(
            self.context,
            (features, self.width, outputs),
            self.depth,
            (self.heads, self.groups),
            (self.dropout, self.attention_dropout),
        )
