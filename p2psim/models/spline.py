"""Graph network with B-spline kernels of two knots, whose coordinate is the degree of the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.graph import GraphModel
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "spline", "Fey, Lenssen, Weichert & Mueller 2018, eq. (2), kernel size 2")
class Spline(GraphModel):
    """Spline convolutions with a kernel of size 2 and degree 1: two layers, ELU between them.

        x'_i = (1 - u_i) (M x W_0)_i + u_i (M x W_1)_i + (x W_root)_i + b

    M is the mean over the neighbors, and u_i = degree of i / largest degree is the coordinate of
    all edges that end at i: the kernel is then this sum. Dropout acts on the inputs of each layer.
    A feedback point is behind ELU, before dropout. Weights start from U(-a, a): a = 1/sqrt(2
    inputs), and 1/sqrt(inputs) for W_root. The tap "nodes" takes the error of the outputs of all
    nodes.
    """

    hidden: Count = 16
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.5

    def layer_shapes(self, features: int, outputs: int) -> list[Shape]:
        first, second = (features, self.hidden), (self.hidden, outputs)
        return [first, first, first, (self.hidden,), second, second, second, (outputs,)]

    def network(self, features: int, outputs: int) -> nn.Module:
        from p2psim.models.graph_networks import SplineNetwork

        return SplineNetwork(self.context, features, self.hidden, outputs, self.dropout)
