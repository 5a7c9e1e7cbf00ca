"""Modules that feedback rules refuse: points and taps that a forward pass does not use soundly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from p2psim.errors import InputError
from p2psim.learning.shallow import Shallow
from p2psim.models.points import ErrorTapModule as Tap
from p2psim.models.points import FeedbackPointModule as Point
from tests.support.feedback import X, bound, make

Tensor = torch.Tensor


class Behind(nn.Module):
    """A point that the outputs depend on past the tap."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.point, self.tap = nn.Linear(5, 4), Point(), Tap("middle")
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.point(self.below(x))
        y: Tensor = self.last(self.tap(h) + h)
        return y


class Returned(nn.Module):
    """A function of a layer, a point and a tap, as a module."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.below, self.point, self.tap = nn.Linear(5, 4), Point(), Tap("middle")
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def unused_tap(net: Any, x: Tensor) -> Tensor:
    """The outputs do not depend on the tap."""
    h: Tensor = net.tap(net.point(net.below(x)))
    z: Tensor = net.last(net.below(x)) + 0 * h.detach()[:, :3]
    return z


def discarded(net: Any, x: Tensor) -> Tensor:
    """The layers behind the point take its input."""
    h = net.below(x)
    net.point(h)
    z: Tensor = net.tap(net.last(h))
    return z


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unused_tap, "outputs of the model do not depend on a tap"),
        (lambda net, x: net.last(net.point(net.below(x))), "does not reach every tap of this name"),
        (discarded, "the output of a feedback point is not used"),
        (lambda net, x: net.last(net.tap(net.point(x[:, 1:])) * net.below(x)), "no layer before"),
        (
            lambda net, x: net.tap(net.last(net.point(net.point(x[:, 1:]).relu()))),
            "no layer before",
        ),
        (lambda net, x: net.tap(net.point(net.below(x))), "a feedback point is behind the last"),
        (lambda net, x: net.tap(net.last(net.below(x))), "reaches no feedback point"),
        (lambda net, x: {"z": net.tap(net.point(net.below(x)))}, "returns a dict in place of"),
        (lambda net, x: net.tap(net.last(net.point(net.below(x)).tanh_())), "in place; let it"),
        (lambda net, x: net.last(net.tap(net.point(net.below(x))).tanh_()), "in place; let it"),
        (lambda net, x: net.tap(net.last(net.below(x) * net.point(x.long()))), "type torch.int64"),
        (lambda net, x: net.tap(net.point(net.below(x)).sum(1)), r"an error tap .* of shape \(1,"),
        (
            lambda net, x: net.tap(net.last(x[:, :3] @ net.point(net.last.weight))),
            "rows of a feedback point",
        ),
    ],
)
def test_a_forward_pass_without_sound_feedback_is_refused(
    function: Callable[[Any, Tensor], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bound(make(Returned(function))).prepare(torch.nn.Module(), X[:1])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_axes_of_a_point_leave_rows_and_entries(dims: int) -> None:
    module = make(nn.Linear(5, 4), Point(dims), nn.Linear(4, 3))
    with pytest.raises(InputError, match=f"batch_dims = {dims} receives a tensor of shape"):
        bound(module).prepare(module, X[:1])


@pytest.mark.parametrize("dims", [0, -1, "2", True])
def test_the_axes_of_a_point_are_a_positive_number(dims: Any) -> None:
    with pytest.raises(InputError, match=f"has batch_dims = {dims!r}; give the number"):
        Point(dims)


def test_frozen_layers_are_not_trained_by_shallow() -> None:
    frozen = nn.Linear(5, 4)
    frozen.requires_grad_(False)
    module = make(frozen, Point(), nn.Linear(4, 4), nn.Tanh(), Point(), nn.Linear(4, 3))
    rule = Shallow()
    rule.bind(module, lambda *_: 7)
    rule.prepare(module, X[:1])
    assert [p.requires_grad for p in module.parameters()] == [False] * 4 + [True] * 2


def test_shallow_needs_a_layer_behind_the_last_point() -> None:
    module = make(nn.Linear(5, 3), Point())
    rule = Shallow()
    rule.bind(module, lambda *_: 7)
    with pytest.raises(InputError, match="no layer behind the last feedback point"):
        rule.prepare(module, X[:1])


@pytest.mark.parametrize(
    ("module", "tap", "message"),
    [
        (make(Behind()), "", "a feedback point of the model reaches the loss past the tap"),
        (make(Behind()), "end", "no such tap; give 'middle' or 'outputs'"),
        (make(nn.Linear(5, 3)), "", "no feedback point; choose another learning rule"),
        (
            make(Tap("low"), nn.Linear(5, 3), Point()),
            "",
            "a feedback point of the model reaches the loss past the tap",
        ),
    ],
)
def test_a_module_without_points_or_with_a_wrong_tap_is_refused(
    module: nn.Module, tap: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bound(module, tap).prepare(module, X[:1])


@pytest.mark.parametrize("name", ["", "outputs", 3])
def test_a_tap_needs_a_name_of_its_own(name: Any) -> None:
    with pytest.raises(InputError, match=f"a tap has the name {name!r}; give it a text other"):
        Tap(name)


def test_a_point_past_the_tap_is_right_with_the_tap_at_the_outputs() -> None:
    module = make(Behind())
    bound(module, "outputs").prepare(module, X[:1])
