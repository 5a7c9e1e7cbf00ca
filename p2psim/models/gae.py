"""Graph autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2psim.base import Count, Shape
from p2psim.models.graph import TAP, GraphModel
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "gae", "Kipf & Welling 2016, section 2")
class GAE(GraphModel):
    """Graph autoencoder: the score of nodes i and j is the product of their codes z_i . z_j.

        Z = A_hat ReLU(A_hat X W^(0) + b^(0)) W^(1) + b^(1)

    with A_hat of gcn. Outputs are the scores of the two pairs of a sample. A feedback point is
    behind ReLU; the tap "nodes" takes the error of Z.
    """

    hidden: Count = 32
    width: Count = 16  # of z

    samples = "pairs"

    def layer_shapes(self, features: int, outputs: int) -> list[Shape]:
        return [(features, self.hidden), (self.hidden,), (self.hidden, self.width), (self.width,)]

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models.graph_modules import PairScores
        from p2psim.models.graph_networks import GCNNetwork

        encoder = GCNNetwork(self.context, self.features, self.hidden, self.width, dropout=0.0)
        return PairScores(encoder, TAP)
