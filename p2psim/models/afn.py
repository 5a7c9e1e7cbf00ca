"""Adaptive Factorization Network."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from p2psim.base import Count, Shape
from p2psim.models.fields import (
    Dropout,
    FieldModel,
    last_width,
    layer_macs,
    layer_shapes,
    linear_shapes,
)
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "afn", "Cheng, Shen & Huang 2020; Launay et al. 2020, section 3.2")
class AFN(FieldModel):
    """Adaptive factorization network: a linear part, and hidden layers on logarithmic neurons.

        z = b + sum_i w_i + z_deep
        y_j = exp(sum_i w_ji ln max(|v_i|, 1e-4) + b_j) = prod_i |v_i|^w_ji e^b_j, entry by entry
        a_0 = (y_1, ..., y_J),  a_l = dropout(ReLU(norm(W_l a_{l-1} + b_l))),  z_deep = w^T a_L + c

    with embeddings v_i of `dim` numbers, J = `neurons` and the widths `hidden` of the layers. As in
    the authors' code, absolute values below 1e-4 count as 1e-4, w_ji start from N(0, 0.1^2), and
    batch norms with a channel for each of the `dim` entries follow ln and exp. The linear part is
    that of Launay et al. Feedback points: the embeddings, the neurons' outputs a_0 and each hidden
    layer. The error is that of z. Launay et al. take dim = 10, 1500 neurons, three layers of 400
    and dropout 0.3 (0 with dfa).
    """

    dim: Count = 8
    neurons: Count = 64
    hidden: list[Count] = field(default_factory=lambda: [64, 64])
    dropout: Dropout = 0.3

    @property
    def entries(self) -> int:
        """Number of entries of a_0."""
        return self.neurons * self.dim

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        self.check(inputs, outputs)
        norms = [(self.dim,)] * 4  # scales and shifts behind ln and exp
        neurons = [*norms, (self.neurons, self.fields), (self.neurons,)]
        layers = layer_shapes(self.entries, self.hidden)
        last = [(1, last_width(self.entries, self.hidden)), (1,)]
        return [*linear_shapes(self.ids), (self.ids, self.dim), *neurons, *layers, *last]

    def macs(self, inputs: Shape, outputs: int) -> int:
        neurons = self.dim * self.fields * self.neurons
        return self.fields + neurons + layer_macs(self.entries, [*self.hidden, 1])

    def widest(self, inputs: Shape, outputs: int) -> int:
        """Return the number of entries of the largest activation of one sample."""
        return max(self.fields * self.dim, self.entries, *self.hidden)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models import recommenders

        self.check(inputs, outputs)
        return recommenders.AdaptiveFactorization(
            self.fields, self.ids, self.dim, self.hidden, self.dropout, self.neurons
        )
