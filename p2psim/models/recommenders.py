"""Models of categorical fields as torch modules; see `fields` for the samples.

B is the number of samples in a batch and m that of fields. Ids have the shape (B, m), and all
modules return logits of shape (B, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from p2psim.models.points import ErrorTapModule, FeedbackPointModule

LEAST = 1e-4  # absolute value of an entry of an embedding before its logarithm, at least
LOGARITHMIC_STD = 0.1  # of the first weights of logarithmic neurons


class Linear(nn.Module):
    """b + sum_i w_i over the ids i of a sample; all start at 0."""

    deterministic = True

    def __init__(self, ids: int) -> None:
        super().__init__()
        self.weight = nn.Embedding(ids, 1)
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.weight.weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.weight(ids).sum(1) + self.bias
        return logits


def embeddings(ids: int, dim: int) -> nn.Embedding:
    """Build the table of embeddings with the initialization of Glorot & Bengio 2010, eq. 16."""
    table = nn.Embedding(ids, dim)
    nn.init.xavier_uniform_(table.weight)
    return table


def pair_products(e: torch.Tensor) -> torch.Tensor:
    """Return sum_{i<j} <e_i, e_j> of embeddings (B, m, dim), shape (B, 1)."""
    return 0.5 * (e.sum(1).square() - e.square().sum(1)).sum(1, keepdim=True)


def hidden_layers(inputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Build layers of a linear map, batch norm, ReLU, dropout and a feedback point each."""
    layers: list[nn.Module] = []
    for low, high in pairwise([inputs, *hidden]):
        layers += [nn.Linear(low, high), nn.BatchNorm1d(high), nn.ReLU()]
        layers += [nn.Dropout(dropout)] * bool(dropout) + [FeedbackPointModule()]
    return nn.Sequential(*layers)


class FactorizationMachine(nn.Module):
    """Linear part and products of all pairs of embeddings."""

    deterministic = True

    def __init__(self, ids: int, dim: int) -> None:
        super().__init__()
        self.linear, self.table = Linear(ids), embeddings(ids, dim)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(ids) + pair_products(self.table(ids))
        return logits


class DeepFactorizationMachine(nn.Module):
    """Factorization machine, plus a network on the same embeddings.

    A rule that acts at the points of the network does not reach the embeddings through it.
    """

    deterministic = True

    def __init__(
        self, fields: int, ids: int, dim: int, hidden: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.linear, self.table = Linear(ids), embeddings(ids, dim)
        self.layers = hidden_layers(fields * dim, hidden, dropout)
        self.last, self.tap = nn.Linear(hidden[-1], 1), ErrorTapModule("mlp")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        e = self.table(ids)
        entering = e.flatten(1)
        if any(point.action for point in self.layers if isinstance(point, FeedbackPointModule)):
            entering = entering.detach()
        deep: torch.Tensor = self.tap(self.last(self.layers(entering)))
        logits: torch.Tensor = self.linear(ids) + pair_products(e) + deep
        return logits


class CrossLayer(nn.Module):
    """x0 (x^T w) + b + x for entries x (B, d); b starts at 0."""

    deterministic = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.bias + x, x0, self.weight(x))


class DeepAndCross(nn.Module):
    """Cross layers beside hidden layers, and a linear map of both outputs."""

    deterministic = True

    def __init__(
        self, width: int, ids: int, dim: int, hidden: Sequence[int], dropout: float, cross: int
    ) -> None:
        super().__init__()
        self.table, self.embedded = embeddings(ids, dim), FeedbackPointModule()
        self.cross = nn.ModuleList(CrossLayer(width) for _ in range(cross))
        self.points = nn.ModuleList(FeedbackPointModule() for _ in range(cross - 1))
        self.layers = hidden_layers(width, hidden, dropout)
        self.joined = FeedbackPointModule()
        self.last = nn.Linear(width + (hidden[-1] if hidden else width), 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x0 = x = self.embedded(self.table(ids).flatten(1))
        points = [*self.points, nn.Identity()]  # the last output goes to the point behind both
        for layer, point in zip(self.cross, points, strict=True):
            x = point(layer(x0, x))
        logits: torch.Tensor = self.last(self.joined(torch.cat([x, self.layers(x0)], 1)))
        return logits


class LogarithmicNeurons(nn.Module):
    """exp(b_j + sum_i w_ji ln e_i) for each entry of embeddings (B, m, dim): (B, neurons dim).

    Batch norms, with one channel for each entry, follow the logarithm and the exponential.
    """

    deterministic = True

    def __init__(self, fields: int, dim: int, neurons: int) -> None:
        super().__init__()
        self.before, self.after = nn.BatchNorm1d(dim), nn.BatchNorm1d(dim)
        self.weights = nn.Linear(fields, neurons)
        nn.init.normal_(self.weights.weight, std=LOGARITHMIC_STD)
        nn.init.zeros_(self.weights.bias)

    def forward(self, e: torch.Tensor) -> torch.Tensor:
        logarithms = e.abs().clamp(min=LEAST).log().transpose(1, 2)
        powers = self.weights(self.before(logarithms)).exp()
        entries: torch.Tensor = self.after(powers).flatten(1)
        return entries


class AdaptiveFactorization(nn.Module):
    """Linear part, plus hidden layers on the outputs of logarithmic neurons."""

    deterministic = True

    def __init__(
        self, fields: int, ids: int, dim: int, hidden: Sequence[int], dropout: float, neurons: int
    ) -> None:
        super().__init__()
        self.linear, self.table = Linear(ids), embeddings(ids, dim)
        self.embedded, self.crossed = FeedbackPointModule(), FeedbackPointModule()
        self.neurons = LogarithmicNeurons(fields, dim, neurons)
        self.layers = hidden_layers(neurons * dim, hidden, dropout)
        self.last = nn.Linear(hidden[-1] if hidden else neurons * dim, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        crossed = self.crossed(self.neurons(self.embedded(self.table(ids))))
        logits: torch.Tensor = self.linear(ids) + self.last(self.layers(crossed))
        return logits
