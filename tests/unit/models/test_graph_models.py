"""Graph models against their formulas with dense matrices, and known answers of feedback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from p2psim import registry
from p2psim.base import Batch
from p2psim.learning.feedback import Pass
from p2psim.models.randomness import draws_nothing
from tests.support.datasets import open_data
from tests.support.feedback import AutogradLearner, bound, largest
from tests.support.graphs import NODES, SmallGraph

Array = NDArray[np.float64]
REAL = os.environ.get("P2PSIM_DATA", "")
SMALL: dict[str, dict[str, Any]] = {
    "gcn": {"hidden": 5, "dropout": 0.0},
    "cheb": {"hidden": 5, "dropout": 0.0},
    "spline": {"hidden": 5, "dropout": 0.0},
    "gat": {"hidden": 3, "heads": 2, "dropout": 0.0, "attention_dropout": (0.0, 0.0)},
    "dna": {"width": 6, "depth": 2, "heads": 3, "groups": 2, "dropout": 0.0}
    | {"attention_dropout": 0.0},
    "gae": {"hidden": 5, "width": 4},
}


class Prepared:
    """A model on the small graph in float64, with random parameters."""

    def __init__(self, name: str, folder: Path, **parameters: Any) -> None:
        graph = SmallGraph().write(folder)
        pairs = name == "gae"
        self.data = open_data("planetoid-links" if pairs else "planetoid", folder, graph=graph)
        self.model: Any = registry.names("model")[name](**{**SMALL[name], **parameters})
        self.model.bind(self.data.spec(), folder)
        torch.manual_seed(0)
        self.module = self.model.build(self.data.shape, self.data.outputs).double()
        for parameter in self.module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        self.p = [p.detach().numpy() for p in self.module.parameters()]
        context = self.data.context
        self.a = np.zeros((NODES, NODES))
        i, j = context["edges"]
        self.a[i, j] = self.a[j, i] = 1
        # Values of the context are float32, like those of a run.
        self.x = np.zeros((NODES, int(context["feature_width"])))
        row = np.repeat(np.arange(NODES), np.diff(context["feature_starts"]))
        self.x[row, context["feature_columns"]] = context["feature_values"]

    def outputs(self, samples: Any) -> Array:
        with torch.no_grad():
            outputs: Array = self.module(torch.as_tensor(samples)).numpy()
        return outputs


def symmetric(matrix: Array) -> Array:
    """Return D^(-1/2) A D^(-1/2)."""
    root: Array = 1 / np.sqrt(np.where(matrix.sum(axis=1) > 0, matrix.sum(axis=1), 1))
    return root[:, None] * matrix * root


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def elu(x: Array) -> Array:
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def gcn(a: Array, x: Array, p: list[Array]) -> Array:
    a_hat, (w0, b0, w1, b1) = symmetric(a + np.eye(len(a))), p
    z: Array = a_hat @ relu(a_hat @ x @ w0 + b0) @ w1 + b1
    return z


def cheb(a: Array, x: Array, p: list[Array]) -> Array:
    t, (theta0, theta1, b0, theta2, theta3, b1) = -symmetric(a), p
    h = relu(x @ theta0 + t @ x @ theta1 + b0)
    return h @ theta2 + t @ h @ theta3 + b1


def spline(a: Array, x: Array, p: list[Array]) -> Array:
    """Sum over the edges, with the weights of the two knots at the edge's coordinate."""
    degree: Array = a.sum(axis=1)

    def layer(h: Array, w0: Array, w1: Array, root: Array, b: Array) -> Array:
        sums = np.zeros((len(h), w0.shape[1]))
        for i, j in zip(*np.nonzero(a), strict=True):
            u = degree[i] / degree.max()
            sums[i] += h[j] @ ((1 - u) * w0 + u * w1)
        return sums / np.maximum(degree, 1)[:, None] + h @ root + b

    return layer(elu(layer(x, *p[:4])), *p[4:])


def attention(a: Array, wh: Array, to: Array, out_of: Array) -> Array:
    """Return the sums of one head of GAT, node by node."""
    sums = np.zeros_like(wh)
    for i in range(len(a)):
        near = np.flatnonzero(a[i] + np.eye(len(a))[i])
        scores = wh[i] @ to + wh[near] @ out_of
        powers = np.exp(np.where(scores > 0, scores, 0.2 * scores))
        sums[i] = powers / powers.sum() @ wh[near]
    return sums


def gat(a: Array, x: Array, p: list[Array]) -> Array:
    w1, w2, to1, from1, b1, to2, from2, b2 = p
    width = to1.shape[1]
    pieces = [x @ w1[:, k * width : (k + 1) * width] for k in range(len(to1))]
    heads = [attention(a, wh, to1[k], from1[k]) for k, wh in enumerate(pieces)]
    h = elu(np.concatenate(heads, axis=1) + b1)
    return attention(a, h @ w2, to2[0], from2[0]) + b2


def grouped(h: Array, w: Array, b: Array) -> Array:
    pieces = np.split(h, len(w), axis=-1)
    return np.concatenate([piece @ weight for piece, weight in zip(pieces, w, strict=True)], -1) + b


def dna(a: Array, x: Array, p: list[Array], heads: int = 3) -> Array:
    c = symmetric(a + np.eye(len(a)))
    w, b, w_out, b_out, *rest = p
    layers = [relu(x @ w + b)]
    for start in range(0, len(rest), 6):
        query, key, value = (rest[start + k : start + k + 2] for k in (0, 2, 4))
        q = grouped(layers[-1], *query)
        k, v = (np.stack([grouped(h, *map_) for h in layers]) for map_ in (key, value))
        sums = np.zeros_like(layers[0])
        for i, j in zip(*np.nonzero(c), strict=True):
            message = []
            for part in np.split(np.arange(q.shape[1]), heads):
                scores = k[:, j, part] @ q[i, part] / np.sqrt(part.size)
                message.append(np.exp(scores) / (1 + np.exp(scores).sum()) @ v[:, j, part])
            sums[i] += c[i, j] * np.concatenate(message)
        layers.append(relu(sums))
    return layers[-1] @ w_out + b_out


FORMULAS = {"gcn": gcn, "cheb": cheb, "spline": spline, "gat": gat, "dna": dna}


@pytest.mark.parametrize("name", FORMULAS)
def test_outputs_follow_the_formula(name: str, tmp_path: Path) -> None:
    made = Prepared(name, tmp_path)
    nodes = np.array([7, 0, 35, 7])
    expected = FORMULAS[name](made.a, made.x, made.p)[nodes]
    assert np.abs(made.outputs(nodes) - expected).max() <= 1e-6 * np.abs(expected).max()


def test_scores_of_pairs_are_products_of_embeddings(tmp_path: Path) -> None:
    made = Prepared("gae", tmp_path)
    z = gcn(made.a, made.x, made.p)
    samples, _ = made.data.test()
    expected = (z[samples[:, :, 0]] * z[samples[:, :, 1]]).sum(axis=2)
    assert np.abs(made.outputs(samples) - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("name", SMALL)
def test_shapes_are_those_of_torch(name: str, tmp_path: Path) -> None:
    made = Prepared(name, tmp_path)
    shapes = made.model.shapes(made.data.shape, made.data.outputs)
    assert shapes == [p.shape for p in made.p]
    assert not list(made.module.buffers())  # a checkpoint holds no graph
    assert draws_nothing(made.module)
    if name != "gae":
        dropping = Prepared(name, tmp_path, dropout=0.5).module
        assert not draws_nothing(dropping)


@pytest.mark.parametrize("name", SMALL)
def test_gradients_follow_finite_differences(name: str, tmp_path: Path) -> None:
    made = Prepared(name, tmp_path)
    samples = torch.from_numpy(made.data.test()[0])
    parameters = list(made.module.parameters())

    def loss(*_: Any) -> Any:
        return made.module(samples).square().sum()

    assert torch.autograd.gradcheck(loss, parameters[:3], eps=1e-6, atol=1e-3, rtol=1e-4)


def published(name: str) -> tuple[Any, Any]:
    """Return a model on Cora in float64 without dropout, and its data."""
    data = open_data("planetoid", graph="cora")
    model: Any = registry.names("model")[name](dropout=0.0)
    model.bind(data.spec(), Path())
    torch.manual_seed(0)
    return model.build((), 7).double(), data


def compared(name: str, feedback: Any) -> tuple[list[Any], list[Any]]:
    """Return the gradients of dfa with this feedback, and those of backpropagation."""
    module, data = published(name)
    nodes, classes = map(torch.from_numpy, data.train(np.arange(140)))
    batch = Batch(nodes, classes, 140)
    loss = functional.cross_entropy(module(nodes), classes)
    expected = list(torch.autograd.grad(loss, list(module.parameters())))
    rule = bound(module)
    rule.matrices.layers = lambda part, e: [feedback(module.network, part, e)]
    rule.gradient(AutogradLearner(module, functional.cross_entropy), batch)
    return [p.grad for p in module.parameters()], expected


def gcn_feedback(network: Any, part: Pass, e: Any) -> Any:
    return network.a_hat(e) @ network.w1.T


def cheb_feedback(network: Any, part: Pass, e: Any) -> Any:
    return e @ network.theta10.T + network.t(e) @ network.theta11.T


@pytest.mark.skipif(not REAL, reason="P2PSIM_DATA is not set")
@pytest.mark.parametrize(("name", "feedback"), [("gcn", gcn_feedback), ("cheb", cheb_feedback)])
def test_feedback_through_the_graph_with_the_weights_is_backpropagation(
    name: str, feedback: Any
) -> None:
    ours, expected = compared(name, feedback)
    assert largest(ours, expected) <= 1e-12


@pytest.mark.skipif(not REAL, reason="P2PSIM_DATA is not set")
def test_feedback_by_the_weights_alone_is_near_backpropagation() -> None:
    ours, expected = compared("gcn", lambda network, part, e: e @ network.w1.T)
    assert largest(ours[2:], expected[2:]) == 0  # the last layer is exact
    one, other = ours[0].flatten(), expected[0].flatten()
    cosine = float(one @ other / one.norm() / other.norm())
    assert 0.85 < cosine < 0.98  # 0.93 with other random weights
