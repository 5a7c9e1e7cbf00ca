"""Torch modules on graphs: products with sparse matrices, and the selection of nodes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from p2psim.models.points import ErrorTapModule

Context = Mapping[str, NDArray[Any]]


class Constants(nn.Module):
    """Base of modules with tensors that are neither trained nor stored in checkpoints.

    They follow the module to a device and to a type of floating-point numbers.
    """

    deterministic = True

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        self.tensors = tensors

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        self.tensors = {name: fn(tensor) for name, tensor in self.tensors.items()}
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class SparseFeatures(Constants):
    """Product X W of the features of all nodes and a weight, shape (nodes, columns of W).

    In training, entries of X are dropped at random, and the others scaled by 1 / (1 - dropout).
    """

    def __init__(self, context: Context, dropout: float = 0.0) -> None:
        from scipy import sparse

        values, columns, starts = (context[f"feature_{k}"] for k in ("values", "columns", "starts"))
        shape = len(starts) - 1, int(context["feature_width"])
        # The transpose of the numbers of the entries says where each entry is in the transpose.
        numbers = sparse.csr_matrix((np.arange(values.size), columns, starts), shape).T.tocsr()
        matrix = sparse.csr_matrix((values, columns, starts), shape)
        super().__init__(
            forward=sparse_tensor(matrix),
            backward=sparse_tensor(matrix.T),
            order=torch.from_numpy(numbers.data),
        )
        self.dropout = dropping(dropout)

    def forward(self, *weights: torch.Tensor) -> list[torch.Tensor]:
        """Return X W for each weight W of shape (features, width), with the same entries of X."""
        matrix, transpose = self.tensors["forward"], self.tensors["backward"]
        if self.training and isinstance(self.dropout, nn.Dropout):
            values = self.dropout(matrix.values())
            transpose = with_values(transpose, values[self.tensors["order"]])
            matrix = with_values(matrix, values)
        joint = torch.cat(weights, dim=1) if len(weights) > 1 else weights[0]
        product = SparseProduct.apply(joint, matrix, transpose)  # type: ignore[no-untyped-call]
        return list(torch.split(product, [weight.shape[1] for weight in weights], dim=1))


class Propagation(Constants):
    """Product A x of a sparse matrix, shape (nodes, nodes), and a matrix x."""

    def __init__(self, matrix: Any) -> None:
        """Take a matrix of SciPy."""
        super().__init__(forward=sparse_tensor(matrix), backward=sparse_tensor(matrix.T))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        matrix, transpose = self.tensors["forward"], self.tensors["backward"]
        product: torch.Tensor = SparseProduct.apply(x, matrix, transpose)  # type: ignore[no-untyped-call]
        return product


class SparseProduct(torch.autograd.Function):
    """A x with the gradient A^T g: torch would transpose the sparse matrix in every step."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, matrix: torch.Tensor, transpose: torch.Tensor
    ) -> torch.Tensor:
        ctx.transpose = transpose
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.transpose @ g, None, None


def sparse_tensor(matrix: Any) -> torch.Tensor:
    """Return a matrix of SciPy as a sparse tensor by rows, in float32."""
    rows = matrix.tocsr()
    starts, columns = torch.from_numpy(rows.indptr), torch.from_numpy(rows.indices)
    values = torch.from_numpy(rows.data.astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this format a beta
        return torch.sparse_csr_tensor(starts, columns, values, size=rows.shape)


def with_values(matrix: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return a sparse matrix with other values at the same places."""
    return torch.sparse_csr_tensor(
        matrix.crow_indices(), matrix.col_indices(), values, size=matrix.shape
    )


def adjacency(context: Context, loops: float = 0.0) -> Any:
    """Return A + loops I of undirected edges as a matrix of SciPy, shape (nodes, nodes)."""
    from scipy import sparse

    nodes, (i, j) = len(context["feature_starts"]) - 1, context["edges"]
    ends = np.concatenate([i, j]), np.concatenate([j, i])
    matrix = sparse.csr_matrix((np.ones(ends[0].size), ends), shape=(nodes, nodes))
    return matrix + loops * sparse.identity(nodes, format="csr")


def normalized(matrix: Any) -> Any:
    """Return D^(-1/2) A D^(-1/2) with D the row sums of A; rows without edges stay zero."""
    from scipy import sparse

    degree = np.asarray(matrix.sum(axis=1)).ravel()
    roots = sparse.diags(1 / np.sqrt(np.where(degree > 0, degree, 1.0)))
    return roots @ matrix @ roots


class SelectedNodes(nn.Module):
    """Outputs of a network on all nodes, for the nodes of a minibatch.

    Behind the network is a tap: the error that feedback points receive has a row for every node.
    """

    deterministic = True

    def __init__(self, network: nn.Module, tap: str) -> None:
        super().__init__()
        self.network, self.tap = network, ErrorTapModule(tap)

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.tap(self.network())
        return outputs.index_select(0, nodes)


class PairScores(nn.Module):
    """Scores z_i . z_j of the pairs of nodes in a minibatch, with a tap at z of all nodes."""

    deterministic = True

    def __init__(self, encoder: nn.Module, tap: str) -> None:
        super().__init__()
        self.encoder, self.tap = encoder, ErrorTapModule(tap)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Return the scores, (B, 2), of pairs (B, 2, 2)."""
        z = self.tap(self.encoder())
        ends = z.index_select(0, pairs.flatten()).reshape(*pairs.shape, -1)
        scores: torch.Tensor = (ends[:, :, 0] * ends[:, :, 1]).sum(dim=2)
        return scores


def dropping(rate: float) -> nn.Module:
    """Return a dropout module, or one that draws no random numbers if the rate is 0."""
    return nn.Dropout(rate) if rate else nn.Identity()


def glorot(*shape: int) -> nn.Parameter:
    """Return a weight with entries from U(-a, a), a = sqrt(6 / (rows + columns))."""
    return uniform(math.sqrt(6 / (shape[-2] + shape[-1])), *shape)


def uniform(bound: float, *shape: int) -> nn.Parameter:
    """Return a weight with entries from U(-bound, bound)."""
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def zeros(*shape: int) -> nn.Parameter:
    """Return a parameter whose entries are 0."""
    return nn.Parameter(torch.zeros(shape))
