"""Graph network with Chebyshev polynomials of the Laplacian, of first order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.graph import GraphModel
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "cheb", "Defferrard, Bresson & Vandergheynst 2016, eq. (4), K = 2")
class Cheb(GraphModel):
    """Graph network of two layers with Chebyshev polynomials of degree 0 and 1.

        Z = h Theta_0^(1) + T h Theta_1^(1) + b^(1),  h = ReLU(X Theta_0 + T X Theta_1 + b)

    with T = L - I = -D^(-1/2) A D^(-1/2), the first Chebyshev polynomial of the Laplacian L,
    whose largest eigenvalue is taken as 2. Dropout acts on h. A feedback point is behind it.
    Weights start as those of Glorot & Bengio 2010, biases from 0. The tap "nodes" takes the
    error of the outputs of all nodes.
    """

    hidden: Count = 16
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.5

    def layer_shapes(self, features: int, outputs: int) -> list[Shape]:
        first, second = (features, self.hidden), (self.hidden, outputs)
        return [first, first, (self.hidden,), second, second, (outputs,)]

    def network(self, features: int, outputs: int) -> nn.Module:
        from p2psim.models.graph_networks import ChebNetwork

        return ChebNetwork(self.context, features, self.hidden, outputs, self.dropout)
