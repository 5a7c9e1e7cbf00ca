"""Cuts of a network at its feedback points, and the gradients of the pieces.

A point hands its input on without its history, so that a backward pass ends there: no product is
computed whose result a point would discard. A tap is connected to the ends of the pieces before it:
once it receives the error, the feedback goes to all of them, in the same backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from p2psim.errors import InputError
from p2psim.models.points import ErrorTapModule, FeedbackPointModule

OUTPUTS = "outputs"  # name of the tap at the outputs, which every model has
CURE = (
    "choose another learning rule or model; in a model of your own, put FeedbackPoint() of "
    "p2psim.layers behind the activations in its list of layers, or FeedbackPointModule() in its "
    "torch module"
)


class Pass:
    """One forward pass of a minibatch through the points before one tap."""

    def __init__(self) -> None:
        self.tap = 0  # number of the tap in the module
        self.tap_dims = 1  # leading axes of the error that count rows
        self.ends: list[torch.Tensor] = []  # input of each point, where a piece ends
        self.dims: list[int] = []  # leading axes of each point that count rows

    def repeats(self, x: torch.Tensor) -> list[float]:
        """Return the rows of each point for a row of the error; x is the tensor at the tap."""
        rows = math.prod(x.shape[: self.tap_dims])
        pairs = zip(self.ends, self.dims, strict=True)
        return [math.prod(end.shape[:dims]) / rows for end, dims in pairs]


class Trial:
    """Facts about a forward pass that is checked."""

    def __init__(self) -> None:
        self.starts: list[torch.Tensor] = []  # outputs of the points
        self.leaves: list[torch.Tensor] = []  # outputs of the taps
        self.taps: set[int] = set()  # numbers of the taps that the pass has reached
        self.repeats: list[float] = []  # see Pass.repeats


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
        self.trial: Trial | None = None  # while checking
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
        if self.trial:
            check_tensor(outputs)
        return outputs if self.taps else self.end_pass(0, outputs, max(1, outputs.ndim - 1))

    def cut(self, point: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """Keep the input of a point, and return it without its history."""
        if not self.active:
            return x
        start, part = x.detach(), self.pending
        if self.trial:
            check_axes(point, x)
            self.trial.starts.append(start.requires_grad_())
        if x.requires_grad:  # the piece has parameters
            part.ends.append(x)
            part.dims.append(point.batch_dims)
        return start

    def end(self, tap: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """End a pass at a tap of the module."""
        assert isinstance(tap, ErrorTapModule)
        if not self.active:
            return x
        if self.trial:
            check_axes(tap, x)
        return self.end_pass(self.taps.index(tap), x, tap.batch_dims)

    def end_pass(self, tap: int, x: torch.Tensor, dims: int) -> torch.Tensor:
        """End a pass; returns x, behind which the backward pass hands the error to the points."""
        part, self.pending = self.pending, Pass()
        part.tap, part.tap_dims = tap, dims
        if self.trial:
            self.trial.taps.add(tap)
            self.trial.repeats += part.repeats(x)
            self.trial.leaves.append(x.detach().requires_grad_())
            return self.trial.leaves[-1]
        output: torch.Tensor = Tap.apply(part, self.feedback, x, *part.ends)  # type: ignore[no-untyped-call]
        return output

    def check(self, inputs: Any) -> None:
        """Check the points and taps that a forward pass with the inputs of one sample reaches.

        InputError if no point or not every tap is reached, if the outputs do not depend on a tap,
        or depend on a point past the taps, and if rows of a point do not belong to rows of the
        error.
        """
        trial, outputs = self.tried(inputs)
        if not trial.starts:
            raise InputError(f"learning.rule: the forward pass reaches no feedback point; {CURE}")
        if len(trial.taps) < len(self.taps):
            raise InputError(
                f"learning.rule.tap: the forward pass does not reach every tap "
                f"{self.taps[0].name!r} of the module; pass it, remove it, or give another "
                "learning.rule.tap"
            )
        gradients = torch.autograd.grad(
            outputs.sum(), [*trial.starts, *trial.leaves], allow_unused=True
        )
        past, known = gradients[: len(trial.starts)], gradients[len(trial.starts) :]
        if any(gradient is not None for gradient in past):
            raise InputError(
                "learning.rule: a feedback point of the model reaches the loss past the tap, so "
                'that its feedback would be wrong; give learning.rule.tap = "outputs", or move '
                "the point or the tap"
            )
        if any(gradient is None for gradient in known):
            raise InputError(
                "learning.rule: the outputs of the model do not depend on a tap, so that the "
                "layers before it would learn nothing; remove the tap, or give another "
                "learning.rule.tap"
            )
        if self.tried(twice(inputs))[0].repeats != trial.repeats:
            raise InputError(
                "learning.rule: the rows of a feedback point do not belong to rows of the error "
                "(see batch_dims in p2psim.layers); give another learning.rule.tap, such as the "
                "model's own choice, or move the tap"
            )

    def tried(self, inputs: Any) -> tuple[Trial, torch.Tensor]:
        """Return the facts about a forward pass, and its outputs."""
        self.trial = trial = Trial()
        try:
            outputs = self.forward(inputs)
        except RuntimeError as error:
            if "in-place" not in str(error):
                raise
            raise InputError(
                "learning.rule: an operation changes the output of a feedback point or of a tap in "
                "place; let it make a new tensor (inplace=False)"
            ) from None
        finally:
            self.trial = None
        return trial, outputs


def twice(inputs: Any) -> Any:
    """Return each sample of the inputs, a tensor or a dict of tensors, two times."""
    if isinstance(inputs, dict):
        return {name: twice(tensor) for name, tensor in inputs.items()}
    return torch.cat([inputs, inputs])


def check_axes(point: FeedbackPointModule, x: torch.Tensor) -> None:
    """Check that x, the tensor at a point or a tap, has rows of numbers; InputError otherwise."""
    kind = "an error tap" if isinstance(point, ErrorTapModule) else "a feedback point"
    if not 1 <= point.batch_dims < x.ndim:
        raise InputError(
            f"learning.rule: {kind} with batch_dims = {point.batch_dims} receives a tensor of "
            f"shape {tuple(x.shape)}; give batch_dims the number of leading axes that count rows, "
            "at least 1 and less than all axes"
        )
    if not x.is_floating_point():
        raise InputError(
            f"learning.rule: {kind} receives numbers of type {x.dtype}; put it behind a layer that "
            "gives floating-point numbers"
        )


def check_tensor(outputs: Any) -> None:
    """Check that a model returns a tensor; InputError otherwise."""
    if not isinstance(outputs, torch.Tensor):
        raise InputError(
            f"learning.rule: the model returns a {type(outputs).__name__} in place of a tensor; "
            "correct its `forward`"
        )


def feedback_points(module: nn.Module) -> list[FeedbackPointModule]:
    """Return the feedback points of a module; InputError if it has none."""
    points = [part for part in module.modules() if type(part) is FeedbackPointModule]
    if not points:
        raise InputError(f"learning.rule: the model has no feedback point; {CURE}")
    return points
