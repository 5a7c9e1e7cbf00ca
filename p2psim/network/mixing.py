"""Rules for the mixing matrix: W[i, j] is the weight that receiver i gives to sender j."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from p2psim.errors import InputError

Matrix: TypeAlias = NDArray[np.float64]
TOLERANCE = 1e-12  # of row and column sums, per peer


@dataclass(frozen=True)
class GraphArrays:
    """Graph of one step of the period as arrays; row = receiver."""

    adjacency: Matrix  # (n, n), 0 or 1, without self-loops
    loops: NDArray[np.bool_]  # (n,), peers with a self-loop
    weight: Matrix  # (n, n), self-loops on the diagonal; NaN for edges without a weight
    samples: Matrix  # (n,), training samples of each peer


def metropolis(graph: GraphArrays) -> Matrix:
    """W_ij = 1 / (1 + max(deg_i, deg_j)) on edges, W_ii = 1 - the others (Metropolis-Hastings)."""
    degree = graph.adjacency.sum(axis=1)
    return _fill(graph.adjacency / (1 + np.maximum.outer(degree, degree)))


def lazy(graph: GraphArrays) -> Matrix:
    """W = (I + metropolis) / 2: no negative eigenvalue."""
    return _fill(metropolis(graph) / 2)  # _fill replaces the diagonal


def max_degree(graph: GraphArrays) -> Matrix:
    """W_ij = 1 / (1 + Delta), Delta the largest degree; W_ii = 1 - deg_i / (1 + Delta)."""
    return _fill(graph.adjacency / (1 + graph.adjacency.sum(axis=1).max()))


def uniform_neighbor(graph: GraphArrays) -> Matrix:
    """W_ij = 1 / (indeg_i + 1), self included: row-stochastic."""
    return _shares(graph.adjacency + np.eye(len(graph.adjacency)), axis=1)


def out_degree(graph: GraphArrays) -> Matrix:
    """W_ij = 1 / (outdeg_j + 1), self included: column-stochastic (push-sum)."""
    return _shares(graph.adjacency + np.eye(len(graph.adjacency)), axis=0)


def data_size(graph: GraphArrays) -> Matrix:
    """W_ij = n_j / (n_i + sum of n_k over the senders k of i), j = i or a sender: row-stochastic.

    n_j are the samples of peer j. InputError if a peer has none.
    Pranav & Moura, "Peer-to-Peer Learning+Consensus with Non-IID Data" (2023).
    """
    for k in np.flatnonzero(graph.samples <= 0):
        raise InputError(f"topology.weights: peer {k} has no samples, so choose another rule")
    return _shares((graph.adjacency + np.eye(len(graph.adjacency))) * graph.samples, axis=1)


def edges(graph: GraphArrays) -> Matrix:
    """W_ij = the weight of edge j -> i; W_ii = that of the self-loop, else 1 - the others.

    InputError if an edge has no weight above 0, if a W_ii is negative, or if neither all rows nor
    all columns sum to 1.
    """
    linked = graph.adjacency > 0
    for i, j in np.argwhere(linked & ~((graph.weight > 0) & np.isfinite(graph.weight))):
        value = "none" if np.isnan(graph.weight[i, j]) else graph.weight[i, j]
        need = "'edges' needs a weight above 0 on every edge, or choose another rule"
        raise InputError(f"topology.weights: the weight of edge {j} -> {i} is {value}; {need}")
    W = np.where(linked, graph.weight, 0.0)
    loop, total = graph.weight.diagonal(), W.sum(axis=1)
    diagonal = np.where(np.isnan(loop), 1 - total, loop)
    diagonal[np.abs(diagonal) <= TOLERANCE * len(diagonal)] = 0  # 1 - ten times 0.1 is not quite 0
    for i in np.flatnonzero(~((diagonal >= 0) & np.isfinite(diagonal))):
        rest = f"W_ii would be {diagonal[i]:.6g}: lower them, or give a self-loop >= 0"
        row = f"the weights into {i} sum to {total[i]:.6g}"
        raise InputError(f"topology.weights: {row}, {rest}")
    np.fill_diagonal(W, diagonal)
    rows, columns = np.abs(W.sum(axis=1) - 1), np.abs(W.sum(axis=0) - 1)
    if min(rows.max(), columns.max()) > TOLERANCE * len(diagonal):
        i, need = rows.argmax(), "every row (or every column) of W must sum to 1"
        rest = "correct it, or leave out the self-loops: W_ii is then 1 - the others"
        raise InputError(f"topology.weights: row {i} sums to {W[i].sum():.12g}, but {need}; {rest}")
    return W


def _shares(parts: Matrix, axis: int) -> Matrix:
    """Divide the entries by their sums along `axis`."""
    return np.asarray(parts / parts.sum(axis=axis, keepdims=True))


def _fill(W: Matrix) -> Matrix:
    """Set W_ii = 1 - the sum of the other W_ij in place; returns W."""
    np.fill_diagonal(W, 0)
    np.fill_diagonal(W, 1 - W.sum(axis=1))
    return W


Rule: TypeAlias = Callable[[GraphArrays], Matrix]
UNDIRECTED: dict[str, Rule] = {"metropolis": metropolis, "max-degree": max_degree, "lazy": lazy}
DIRECTED: dict[str, Rule] = {
    "uniform-neighbor": uniform_neighbor,
    "out-degree": out_degree,
    "data-size": data_size,
    "edges": edges,
}
RULES = UNDIRECTED | DIRECTED
