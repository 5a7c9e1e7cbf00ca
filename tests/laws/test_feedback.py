"""Known answers of Direct Feedback Alignment, in float64, against backpropagation and formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from p2psim.learning.feedback import Pass
from p2psim.learning.shallow import Shallow
from p2psim.models.points import ErrorTapModule as Tap
from p2psim.models.points import FeedbackPointModule as Point
from p2psim.registry import find
from tests.support.feedback import (
    LABELS,
    Loss,
    Tensor,
    X,
    backpropagated,
    bound,
    gradients,
    largest,
    make,
    watched,
)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_one_hidden_layer_with_the_weights_as_feedback_is_backpropagation(activation: Any) -> None:
    module = make(nn.Linear(5, 7), activation(), Point(), nn.Linear(7, 3))
    expected = backpropagated(module)
    weight: Any = module[3].weight
    assert largest(gradients(module, feedback=lambda part, e: [e @ weight]), expected) == 0
    assert largest(gradients(module), expected) > 0.1  # with a random B


def deep(activation: Any) -> tuple[nn.Sequential, Callable[[Pass, Tensor], list[Tensor]]]:
    """Five layers, and for each point e times the product of all weights above it."""
    widths = [5, 6, 4, 7, 5, 3]
    layers: list[nn.Module] = []
    for low, high in pairwise(widths):
        layers += [nn.Linear(low, high), activation(), Point()]
    module = make(*layers[:-2])
    weights: list[Any] = [part.weight for part in module if isinstance(part, nn.Linear)]

    def products(part: Pass, e: Tensor) -> list[Tensor]:
        return [
            e @ torch.linalg.multi_dot([*weights[:i:-1], torch.eye(w.shape[1]).double()])
            for i, w in enumerate(weights[1:])
        ]

    return module, products


def test_a_linear_network_with_products_of_weights_as_feedback_is_backpropagation() -> None:
    module, products = deep(nn.Identity)
    expected = backpropagated(module)
    assert largest(gradients(module, feedback=products), expected) <= 1e-12


def test_a_nonlinear_network_is_not_apart_from_its_last_layer() -> None:
    module, products = deep(nn.Tanh)
    expected = backpropagated(module)
    found = gradients(module, feedback=products)
    assert largest(found[:-2], expected[:-2]) > 0.1
    assert largest(found[-2:], expected[-2:]) == 0


def test_one_post_norm_block_with_a_tap_at_its_output_is_backpropagation() -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)
    embedding, point = nn.Linear(5, 8), Point(2)
    module = make(
        nn.Unflatten(1, (1, 5)),
        embedding,
        block,
        point,
        Tap("block", 2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    expected = backpropagated(module)
    found = gradients(module, feedback=lambda part, e: [e])
    assert largest(found, expected) == 0


@pytest.mark.parametrize(
    ("loss", "targets", "error"),
    [
        (
            functional.cross_entropy,
            LABELS,
            lambda y: (y.softmax(1) - functional.one_hot(LABELS, 3)) / 9,
        ),
        (
            functional.binary_cross_entropy_with_logits,
            X[:, :3].abs(),
            lambda y: (y.sigmoid() - X[:, :3].abs()) / 27,
        ),
        (functional.mse_loss, X[:, :3], lambda y: 2 * (y - X[:, :3]) / 27),
    ],
)
def test_the_error_is_the_gradient_of_the_loss_at_the_outputs(
    loss: Loss, targets: Tensor, error: Callable[[Tensor], Tensor]
) -> None:
    module = make(nn.Linear(5, 7), nn.Tanh(), Point(), nn.Linear(7, 3))
    expected = error(module(X).detach())
    rule = bound(module)
    projected = watched(rule)
    gradients(module, loss, targets, rule)
    ((_, e, _),) = projected
    assert largest([e], [expected]) <= 1e-15


def test_layers_of_two_sizes_take_the_first_columns_of_one_matrix() -> None:
    module = make(
        *(nn.Linear(5, 6), nn.Tanh(), Point()),
        *(nn.Linear(6, 4), nn.Tanh(), Point()),
        nn.Linear(4, 2),
    )
    h1 = module[1](module[0](X))
    h2 = module[4](module[3](h1))
    targets = X[:, :2]
    e = (2 * (module[6](h2) - targets) / 18).detach()
    B = torch.from_numpy(np.random.default_rng(7).uniform(-1, 1, (2, 6)))
    found = gradients(module, functional.mse_loss, targets)
    for index, h, below in ((0, h1, X), (2, h2, h1)):
        size = h.shape[1]
        delta = (e @ B[:, :size] / math.sqrt(6)) * (1 - h**2)
        assert largest([found[index]], [delta.T @ below]) <= 1e-15
        assert largest([found[index + 1]], [delta.sum(0)]) <= 1e-15


def test_a_point_with_more_rows_than_the_error_repeats_them() -> None:
    module = make(
        nn.Unflatten(1, (5, 1)),
        nn.Linear(1, 4),
        nn.Tanh(),
        Point(2),
        nn.Flatten(),
        nn.Linear(20, 3),
    )
    rule = bound(module)
    projected = watched(rule)
    gradients(module, rule=rule)
    ((_, e, (feedback,)),) = projected
    B = torch.from_numpy(np.random.default_rng(7).uniform(-1, 1, (3, 4)))
    for row in range(45):
        expected = e[row // 5] @ B / math.sqrt(4) / math.sqrt(5)
        assert float((feedback.reshape(45, 4)[row] - expected).abs().max()) <= 1e-15


class Twice(nn.Module):
    """Two layers read one point."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.point = nn.Linear(5, 4), Point()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.point(self.below(x).tanh())
        y: Tensor = self.left(h) + self.right(h)
        return y


def test_a_point_that_two_layers_read_has_one_feedback() -> None:
    twice = Twice()
    module = make(twice)
    rule = bound(module)
    projected = watched(rule)
    found = gradients(module, rule=rule)
    ((_, _, (feedback,)),) = projected
    h = twice.below(X).tanh()
    assert largest(found[:1], [(feedback * (1 - h**2)).T @ X]) <= 1e-15


class Beside(nn.Module):
    """A point and a path past all points start from one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.point = nn.Linear(5, 4), Point()
        self.last, self.tap, self.direct = nn.Linear(4, 3), Tap("deep"), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.below(x).tanh()
        y: Tensor = self.tap(self.last(self.point(h))) + self.direct(h)
        return y


def test_a_path_past_the_points_adds_its_gradient_to_the_feedback() -> None:
    beside = Beside()
    module = make(beside)
    e = (module(X).softmax(1) - functional.one_hot(LABELS, 3)).detach() / 9
    rule = bound(module)
    rule.prepare(module, X[:1])
    found = gradients(module, rule=rule)
    h = beside.below(X).tanh().detach()
    delta = (e @ rule.matrices.drawn[0] + e @ beside.direct.weight.detach()) * (1 - h**2)
    assert largest(found[:1], [delta.T @ X]) <= 1e-15


class TwoPasses(nn.Module):
    """The same network on two inputs, each with a tap of its own pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(5, 4),
            nn.Tanh(),
            Point(),
            nn.Linear(4, 3),
            Tap("raw"),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x) + self.net(2 * x) ** 2
        return y


def test_each_of_two_forward_passes_has_its_own_error() -> None:
    net = (passes := TwoPasses()).net
    module = make(passes)
    rule = bound(module)
    projected = watched(rule)
    found = gradients(module, rule=rule)
    (_, second, _), (_, first, _) = projected
    y, z = net(X), net(2 * X)
    e = (y + z**2).softmax(1)
    e = (e - functional.one_hot(LABELS, 3)) / 9
    assert largest([first, second], [e, 2 * z * e]) <= 1e-15
    B = rule.matrices.drawn[0]
    expected = torch.zeros(4, 5).double()
    for x, error in ((X, e), (2 * X, 2 * z * e)):
        h = net[:2](x)
        expected = expected + ((error @ B) * (1 - h**2)).T @ x
    assert largest(found[:1], [expected]) <= 1e-15


def test_shallow_gives_no_gradient_below_the_points_and_backpropagation_above() -> None:
    module = make(nn.Linear(5, 7), nn.Tanh(), Point(), nn.Linear(7, 3))
    expected = backpropagated(module)
    rule: Shallow = find("rule", "shallow", Path())()
    rule.bind(module, lambda purpose, own=False: 7)
    rule.prepare(module, X[:1])
    found = gradients(module, rule=rule)
    assert found[:2] == [None, None]
    assert largest(found[2:], expected[2:]) == 0


def test_the_entries_of_the_matrix() -> None:
    matrix = bound(make(Point())).matrices.matrix(0, torch.zeros(1, 1000).double(), 128)
    assert matrix.shape == (1000, 128)
    assert float(matrix.abs().max()) <= 1 / math.sqrt(128)
    rms = float((matrix**2).mean().sqrt())
    assert abs(rms - 1 / math.sqrt(3 * 128)) < 2e-4


@pytest.mark.parametrize(("feedback", "equal"), [("shared", True), ("own", False)])
def test_peers_draw_the_same_matrix_unless_each_has_its_own(feedback: str, equal: bool) -> None:
    drawn = []
    for rank in (0, 1):
        module = make(nn.Linear(5, 7), nn.Tanh(), Point(), nn.Linear(7, 3))
        rule: Any = find("rule", "dfa", Path())(feedback=feedback)
        rule.bind(module, lambda purpose, own=False, rank=rank: 7 + own * (1 + rank))
        drawn.append(gradients(module, rule=rule))
    assert (largest(drawn[0], drawn[1]) == 0) == equal


@pytest.mark.parametrize("dims", [1, 3])
def test_a_tap_on_maps_has_rows_by_its_axes(dims: int) -> None:
    """The error of a whole sample is projected, or that of each pixel."""
    layers = [nn.Unflatten(1, (1, 1, 5)), nn.Conv2d(1, 2, 1), nn.Tanh(), Point(dims)]
    end = [nn.Conv2d(2, 2, 1), Tap("maps", dims), nn.Flatten(), nn.Linear(10, 3)]
    module = make(*layers, *end)
    rule = bound(module)
    rule.prepare(module, X[:1])
    projected = watched(rule)
    gradients(module, rule=rule)
    ((_, e, (feedback,)),) = projected
    rows = math.prod(e.shape[:dims])
    matrix = rule.matrices.drawn[0]
    assert matrix.shape == (e.numel() // rows, feedback.numel() // rows)
    assert torch.equal(feedback.reshape(rows, -1), e.reshape(rows, -1) @ matrix)
