"""Cuts of a network at its feedback points, and the gradients of the pieces.

A point hands its input on without its history, so that a backward pass ends there: no product is
computed whose result a point would discard. A tap is connected to the ends of the pieces before it:
once it receives the error, the feedback goes to all of them, in the same backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from p2psim.errors import InputError
from p2psim.models.points import OUTPUTS, Action, ErrorTapModule, FeedbackPointModule

CURE = (
    "choose another learning rule or model; in a model of your own, put FeedbackPoint() of "
    "p2psim.layers behind the activations in its list of layers, or FeedbackPointModule() in its "
    "torch module"
)


class Pass:
    """One forward pass of a minibatch through the points before one tap."""

    def __init__(self, tap: int, tap_dims: int, ends: list[torch.Tensor], dims: list[int]) -> None:
        self.tap = tap  # number of the tap in the module
        self.tap_dims = tap_dims  # leading axes of the error that count rows
        self.ends = ends  # input of each point, where a piece ends
        self.dims = dims  # leading axes of each point that count rows


# Gradients at the ends of a pass, given the error at its tap.
Feedback: TypeAlias = Callable[[Pass, torch.Tensor], list[torch.Tensor]]


class Tap(torch.autograd.Function):
    """Identity; its backward pass hands the error on, and the feedback to the ends of the pass."""

    @staticmethod
    def forward(ctx: Any, part: Pass, feedback: Feedback, x: torch.Tensor, *ends: Any) -> Any:
        ctx.part, ctx.feedback = part, feedback
        return x.detach()  # its values; autograd connects the result to x and to the ends

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (error,) = grads
        return None, None, error, *ctx.feedback(ctx.part, error)


# The call in torch's core: the checks of Function.apply take as long as a small layer.
connect: Any = super(torch.autograd.Function, Tap).apply


class CutNetwork:
    """Module whose points and taps cut the graph of a forward pass into pieces.

    `tap` is the name of the taps that give the error; "" stands for the first name in the module,
    or for the outputs in a module without taps. InputError for an unknown name, and for a module
    without points.
    """

    def __init__(self, module: nn.Module, feedback: Feedback, tap: str = "") -> None:
        self.module, self.feedback = module, feedback
        self.points = feedback_points(module)
        taps = [part for part in module.modules() if isinstance(part, ErrorTapModule)]
        self.names = [*dict.fromkeys(part.name for part in taps), OUTPUTS]
        self.tap = tap or self.names[0]
        if self.tap not in self.names:
            raise InputError(
                f"learning.rule.tap = {tap!r}: the model has no such tap; give {self.choices()}"
            )
        self.taps = [part for part in taps if part.name == self.tap]
        self.active = False  # a forward pass of `forward` is under way
        self.ends: list[torch.Tensor] = []  # since the last tap; see Pass
        self.dims: list[int] = []
        self.act(self.cut, self.end)

    def choices(self) -> str:
        """Return the names of the other taps for a message."""
        return " or ".join(repr(name) for name in self.names if name != self.tap)

    def act(self, cut: Action, end: Action) -> None:
        """Let the points call `cut`, and the taps `end`, in a forward pass."""
        for point in self.points:
            point.action = cut
        for tap in self.taps:
            tap.action = end

    def forward(self, inputs: object) -> torch.Tensor:
        """Return the outputs for a minibatch; their backward pass is that of the cut network."""
        self.ends, self.dims = [], []
        self.active = True
        try:
            outputs: torch.Tensor = self.module(inputs)
        finally:
            self.active = False
        return outputs if self.taps else self.end_pass(0, outputs, row_axes(outputs))

    def cut(self, point: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """Keep the input of a point, and return it without its history."""
        if not self.active:
            return x
        if x.requires_grad:  # the piece has parameters
            self.ends.append(x)
            self.dims.append(point.batch_dims)
        return x.detach()

    def end(self, tap: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """End a pass at a tap of the module."""
        assert isinstance(tap, ErrorTapModule)
        return self.end_pass(self.taps.index(tap), x, tap.batch_dims) if self.active else x

    def end_pass(self, tap: int, x: torch.Tensor, dims: int) -> torch.Tensor:
        """End a pass; returns x, behind which the backward pass hands the error to the points."""
        part = Pass(tap, dims, self.ends, self.dims)
        self.ends, self.dims = [], []
        output: torch.Tensor = connect(part, self.feedback, x, *part.ends)
        return output


def row_axes(outputs: torch.Tensor) -> int:
    """Return the number of leading axes of a model's outputs that count rows: all but the last."""
    return max(1, outputs.ndim - 1)


def feedback_points(module: nn.Module) -> list[FeedbackPointModule]:
    """Return the feedback points of a module; InputError if it has none."""
    points = [part for part in module.modules() if type(part) is FeedbackPointModule]
    if not points:
        raise InputError(f"learning.rule: the model has no feedback point; {CURE}")
    return points
