"""Torch modules of graph networks whose weights of the edges are learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from p2psim.models.graph_modules import (
    Constants,
    Context,
    SparseFeatures,
    adjacency,
    dropping,
    glorot,
    normalized,
    zeros,
)
from p2psim.models.points import FeedbackPointModule

SLOPE = 0.2  # of LeakyReLU at negative numbers


class Edges(Constants):
    """Edges of a graph, loops included, each in both directions: from `source` to `target`."""

    def __init__(self, matrix: Any) -> None:
        """Take the edges from the entries of a matrix of SciPy, row = target."""
        entries = matrix.tocoo()
        super().__init__(
            source=torch.from_numpy(entries.col).long(),
            target=torch.from_numpy(entries.row).long(),
            weight=torch.from_numpy(entries.data).float(),
        )
        self.nodes = matrix.shape[0]

    @property
    def weight(self) -> torch.Tensor:
        """Entry of the matrix for each edge, (edges,)."""
        return self.tensors["weight"]

    def sources(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows of x, (nodes, ...), at the source of each edge, (edges, ...)."""
        return x.index_select(0, self.tensors["source"])

    def targets(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows of x, (nodes, ...), at the target of each edge, (edges, ...)."""
        return x.index_select(0, self.tensors["target"])

    def sum(self, messages: torch.Tensor) -> torch.Tensor:
        """Return the sum of the messages (edges, ...) at each target, (nodes, ...)."""
        sums = messages.new_zeros(self.nodes, *messages.shape[1:])
        return sums.index_add(0, self.tensors["target"], messages)

    def softmax(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the softmax of the scores (edges, heads) over the edges of each target."""
        target = self.tensors["target"][:, None].expand_as(scores)
        largest = scores.detach().new_zeros(self.nodes, scores.shape[1])
        largest.scatter_reduce_(0, target, scores.detach(), "amax", include_self=False)
        powers = torch.exp(scores - self.targets(largest))
        return powers / self.targets(self.sum(powers))


class Attention(nn.Module):
    """Layer of GAT: sums over the neighbors, with a weight of its own for each head."""

    deterministic = True

    def __init__(self, edges: Edges, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.a_target, self.a_source = glorot(heads, width), glorot(heads, width)
        self.b = zeros(heads * width)
        self.edges, self.dropout = edges, dropping(dropout)

    def forward(self, wh: torch.Tensor) -> torch.Tensor:
        """Return the sums, (nodes, heads * width), from W h of the same shape."""
        edges, wh = self.edges, split(wh, *self.a_source.shape)
        to, out_of = ((wh * a).sum(dim=2) for a in (self.a_target, self.a_source))
        scores = functional.leaky_relu(edges.targets(to) + edges.sources(out_of), SLOPE)
        alpha = self.dropout(edges.softmax(scores))
        return edges.sum(alpha[:, :, None] * edges.sources(wh)).flatten(1) + self.b


class GATNetwork(nn.Module):
    """Network of GAT; see gat.GAT."""

    deterministic = True

    def __init__(
        self,
        context: Context,
        sizes: tuple[int, int, int, int],
        dropout: float,
        attention_dropout: tuple[float, float],
    ) -> None:
        """Build the layers for sizes = (features, hidden, heads, outputs)."""
        super().__init__()
        features, hidden, heads, outputs = sizes
        self.x = SparseFeatures(context, dropout)
        edges = Edges(adjacency(context, loops=1.0))
        self.w1 = glorot(features, heads * hidden)
        self.w2 = glorot(heads * hidden, outputs)
        self.one = Attention(edges, heads, hidden, attention_dropout[0])
        self.two = Attention(edges, 1, outputs, attention_dropout[1])
        self.dropout, self.point = dropping(dropout), FeedbackPointModule()

    def forward(self) -> torch.Tensor:
        (wx,) = self.x(self.w1)
        h = self.dropout(self.point(functional.elu(self.one(wx))))
        z: torch.Tensor = self.two(h @ self.w2)
        return z


class GroupedLinear(nn.Module):
    """Linear map of each of `groups` equal pieces of the last axis by itself, with a bias."""

    deterministic = True

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.w = glorot(groups, width // groups, width // groups)
        self.b = zeros(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pieces = x.reshape(-1, *self.w.shape[:2]).transpose(0, 1)
        mapped = torch.bmm(pieces, self.w).transpose(0, 1)
        return mapped.reshape(x.shape) + self.b


class Jump(nn.Module):
    """Layer of DNA: every edge attends to all earlier layers of its source."""

    deterministic = True

    def __init__(self, edges: Edges, width: int, heads: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (GroupedLinear(width, groups) for _ in range(3))
        self.edges, self.heads, self.dropout = edges, heads, dropping(dropout)

    def forward(self, layers: list[torch.Tensor]) -> torch.Tensor:
        """Return the next layer, (nodes, width), before its activation, from all earlier ones."""
        edges, heads, h = self.edges, self.heads, torch.stack(layers, dim=1)
        q = split(edges.targets(self.query(layers[-1])), heads)
        k = split(edges.sources(self.key(h)), heads)
        v = split(edges.sources(self.value(h)), heads)
        scores = (q[:, None] * k).sum(dim=3) / q.shape[2] ** 0.5  # (edges, layers, heads)
        # Softmax with one more score of 0, whose value is 0: an edge may attend to nothing.
        alpha = functional.softmax(functional.pad(scores, (0, 0, 0, 1)), dim=1)[:, :-1]
        message = (self.dropout(alpha)[..., None] * v).sum(dim=1).flatten(1)
        return edges.sum(edges.weight[:, None] * message)


class DNANetwork(nn.Module):
    """Network of DNA; see dna.DNA."""

    deterministic = True

    def __init__(
        self,
        context: Context,
        sizes: tuple[int, int, int],
        depth: int,
        heads_and_groups: tuple[int, int],
        dropouts: tuple[float, float],
    ) -> None:
        """Build the layers for sizes = (features, width, outputs)."""
        super().__init__()
        features, width, outputs = sizes
        dropout, attention_dropout = dropouts
        self.x = SparseFeatures(context)
        self.w_in, self.b_in = glorot(features, width), zeros(width)
        self.w_out, self.b_out = glorot(width, outputs), zeros(outputs)
        edges = Edges(normalized(adjacency(context, loops=1.0)))
        self.layers = nn.ModuleList(
            Jump(edges, width, *heads_and_groups, attention_dropout) for _ in range(depth)
        )
        self.points = nn.ModuleList(FeedbackPointModule() for _ in range(depth + 1))
        self.dropout = dropping(dropout)

    def forward(self) -> torch.Tensor:
        (wx,) = self.x(self.w_in)
        h = [self.dropout(self.points[0](functional.relu(wx + self.b_in)))]
        for layer, point in zip(self.layers, self.points[1:], strict=True):
            h.append(point(functional.relu(layer(h))))
        z: torch.Tensor = self.dropout(h[-1]) @ self.w_out + self.b_out
        return z


def split(x: torch.Tensor, heads: int, width: int = -1) -> torch.Tensor:
    """Return x with its last axis as two axes, (..., heads, width)."""
    return x.reshape(*x.shape[:-1], heads, width)
