"""Graph convolutional network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.graph import GraphModel
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "gcn", "Kipf & Welling 2017, eq. (9)")
class GCN(GraphModel):
    """Graph convolutional network of two layers.

        Z = A_hat h W^(1) + b^(1),  h = ReLU(A_hat X W^(0) + b^(0))

    with A_hat = D^(-1/2) (A + I) D^(-1/2), D the row sums of A + I. Dropout acts on h. A
    feedback point is behind it. Weights start as those of Glorot & Bengio 2010, biases from 0.
    The tap "nodes" takes the error of the outputs of all nodes.
    """

    hidden: Count = 16
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.5

    def layer_shapes(self, features: int, outputs: int) -> list[Shape]:
        return [(features, self.hidden), (self.hidden,), (self.hidden, outputs), (outputs,)]

    def network(self, features: int, outputs: int) -> nn.Module:
        from p2psim.models.graph_networks import GCNNetwork

        return GCNNetwork(self.context, features, self.hidden, outputs, self.dropout)
