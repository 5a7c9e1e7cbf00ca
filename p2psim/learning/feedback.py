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
from p2psim.models.points import ErrorTapModule, FeedbackPointModule

OUTPUTS = "outputs"  # name of the tap at the outputs, which every model has
CURE = (
    "put FeedbackPoint() of p2psim.layers behind the activations in its list of layers, or "
    "FeedbackPointModule() in its torch module"
)


class Pass:
    """One forward pass of a minibatch through the points before one tap."""

    def __init__(self) -> None:
        self.tap = 0  # number of the tap in the module
        self.ends: list[torch.Tensor] = []  # input of each point, where a piece ends
        self.dims: list[int] = []  # leading axes of each point that count samples


# Gradients at the ends of a pass, given the error at its tap.
Feedback: TypeAlias = Callable[[Pass, torch.Tensor], list[torch.Tensor]]


class Tap(torch.autograd.Function):
    """Identity; its backward pass hands the error on, and the feedback to the ends of the pass."""

    @staticmethod
    def forward(ctx: Any, part: Pass, feedback: Feedback, x: torch.Tensor, *ends: Any) -> Any:
        ctx.part, ctx.feedback = part, feedback
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (error,) = grads
        return None, None, error, *ctx.feedback(ctx.part, error)


class CutNetwork:
    """Module whose points and taps cut the graph of a forward pass into pieces.

    `tap` is the name of the taps that give the error; "" stands for the first name in the module,
    or for the outputs in a module without taps. InputError for an unknown name, and for a module
    without points.
    """

    def __init__(self, module: nn.Module, feedback: Feedback, tap: str = "") -> None:
        self.module, self.feedback = module, feedback
        taps = [part for part in module.modules() if isinstance(part, ErrorTapModule)]
        names = [*dict.fromkeys(part.name for part in taps), OUTPUTS]
        tap = tap or names[0]
        if tap not in names:
            raise InputError(
                f"learning.rule.tap = {tap!r}: the model has no such tap; give "
                f"{' or '.join(map(repr, names))}"
            )
        self.taps = [part for part in taps if part.name == tap]
        self.active = False  # a forward pass of `forward` is under way
        self.starts: list[torch.Tensor] | None = None  # outputs of the points, while checking
        for point in feedback_points(module):
            point.action = self.cut
        for part in self.taps:
            part.action = self.end

    def forward(self, inputs: object) -> torch.Tensor:
        """Return the outputs for a minibatch; their backward pass is that of the cut network."""
        self.pending = Pass()  # since the last tap
        self.active = True
        try:
            outputs: torch.Tensor = self.module(inputs)
        finally:
            self.active = False
        return outputs if self.taps else self.end_pass(0, outputs)

    def cut(self, point: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """Keep the input of a point, and return it without its history."""
        if not self.active:
            return x
        start, part = x.detach(), self.pending
        if self.starts is not None:
            self.starts.append(start.requires_grad_())
        if x.requires_grad:  # the piece has parameters
            part.ends.append(x)
            part.dims.append(point.batch_dims)
        return start

    def end(self, tap: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """End a pass at a tap of the module."""
        assert isinstance(tap, ErrorTapModule)
        return self.end_pass(self.taps.index(tap), x) if self.active else x

    def end_pass(self, tap: int, x: torch.Tensor) -> torch.Tensor:
        """End a pass; returns x, behind which the backward pass hands the error to the points."""
        part, self.pending = self.pending, Pass()
        part.tap = tap
        if self.starts is not None:
            return x.detach().requires_grad_()
        output: torch.Tensor = Tap.apply(part, self.feedback, x, *part.ends)  # type: ignore[no-untyped-call]
        return output

    def check(self, inputs: object) -> None:
        """Check for the inputs of one sample that the outputs depend on points through taps alone.

        InputError for a point behind the tap, and for one that reaches the outputs past the tap.
        """
        starts: list[torch.Tensor] = []
        self.starts = starts
        outputs = self.forward(inputs)
        self.starts = None
        grads = torch.autograd.grad(outputs.sum(), starts, allow_unused=True) if starts else ()
        if any(grad is not None for grad in grads):
            raise InputError(
                "learning.rule: a feedback point of the model reaches the loss past the tap, so "
                'that its feedback would be wrong; give learning.rule.tap = "outputs", or move '
                "the point or the tap"
            )


def feedback_points(module: nn.Module) -> list[FeedbackPointModule]:
    """Return the feedback points of a module; InputError if it has none."""
    points = [part for part in module.modules() if type(part) is FeedbackPointModule]
    if not points:
        raise InputError(f"learning.rule: the model has no feedback point; {CURE}")
    return points
