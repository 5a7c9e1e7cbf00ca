"""Torch modules of graph networks with fixed weights of the edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from p2psim.models.graph_modules import (
    Constants,
    Context,
    Propagation,
    SparseFeatures,
    adjacency,
    dropping,
    glorot,
    normalized,
    uniform,
    zeros,
)
from p2psim.models.points import FeedbackPointModule


class GCNNetwork(nn.Module):
    """Network of GCN; see gcn.GCN."""

    deterministic = True

    def __init__(
        self, context: Context, features: int, hidden: int, outputs: int, dropout: float
    ) -> None:
        super().__init__()
        self.x = SparseFeatures(context)
        self.a_hat = Propagation(normalized(adjacency(context, loops=1.0)))
        self.w0, self.b0 = glorot(features, hidden), zeros(hidden)
        self.w1, self.b1 = glorot(hidden, outputs), zeros(outputs)
        self.dropout, self.point = dropping(dropout), FeedbackPointModule()

    def forward(self) -> torch.Tensor:
        (product,) = self.x(self.w0)
        h = functional.relu(self.a_hat(product) + self.b0)
        h = self.point(self.dropout(h))
        z: torch.Tensor = self.a_hat(h @ self.w1) + self.b1
        return z


class ChebNetwork(nn.Module):
    """Network of Cheb; see cheb.Cheb."""

    deterministic = True

    def __init__(
        self, context: Context, features: int, hidden: int, outputs: int, dropout: float
    ) -> None:
        super().__init__()
        self.x = SparseFeatures(context)
        self.t = Propagation(-normalized(adjacency(context)))
        self.theta00, self.theta01 = glorot(features, hidden), glorot(features, hidden)
        self.b0 = zeros(hidden)
        self.theta10, self.theta11 = glorot(hidden, outputs), glorot(hidden, outputs)
        self.b1 = zeros(outputs)
        self.dropout, self.point = dropping(dropout), FeedbackPointModule()

    def forward(self) -> torch.Tensor:
        own, others = self.x(self.theta00, self.theta01)
        h = functional.relu(own + self.t(others) + self.b0)
        h = self.point(self.dropout(h))
        z: torch.Tensor = h @ self.theta10 + self.t(h @ self.theta11) + self.b1
        return z


class SplineNetwork(Constants):
    """Network of Spline; see spline.Spline."""

    def __init__(
        self, context: Context, features: int, hidden: int, outputs: int, dropout: float
    ) -> None:
        graph = adjacency(context)
        degree = np.asarray(graph.sum(axis=1))
        super().__init__(u=torch.from_numpy((degree / max(1.0, degree.max())).astype(np.float32)))
        self.x = SparseFeatures(context, dropout)
        self.mean = Propagation(graph.multiply(1 / np.maximum(degree, 1.0)))
        self.w = nn.ParameterList()
        for inputs, size in ((features, hidden), (hidden, outputs)):
            bound, root = (2 * inputs) ** -0.5, inputs**-0.5
            self.w.extend([*(uniform(a, inputs, size) for a in (bound, bound, root)), zeros(size)])
        self.dropout, self.point = dropping(dropout), FeedbackPointModule()

    def convolve(self, products: Sequence[torch.Tensor], b: torch.Tensor) -> torch.Tensor:
        """Return the sum of the kernel from the products x W_0, x W_1, x W_root."""
        u, (zero, one, root) = self.tensors["u"], products
        result: torch.Tensor = (1 - u) * self.mean(zero) + u * self.mean(one) + root + b
        return result

    def forward(self) -> torch.Tensor:
        first, b0, second, b1 = self.w[:3], self.w[3], self.w[4:7], self.w[7]
        h = self.point(functional.elu(self.convolve(self.x(*first), b0)))
        h = self.dropout(h)
        return self.convolve([h @ weight for weight in second], b1)
