"""Cuts of a network at its feedback points, and the gradients of the pieces.

A point hands its input on without its history, so that the backward pass of the loss ends there: no
product is computed whose result a point would discard. The pieces between the points are
differentiated afterwards, all in one backward pass, from the gradients at their ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        self.starts: list[torch.Tensor] = []  # outputs of points, while checking
        self.dims: list[int] = []  # leading axes of each point that count samples

    def close(self, tap: int, x: torch.Tensor) -> torch.Tensor:
        """End the pass at a tap; returns x as a leaf, whose gradient becomes the error."""
        self.tap, self.output = tap, x
        self.leaf = x.detach().requires_grad_()
        return self.leaf

    def error(self) -> torch.Tensor:
        """Return the error of this pass, dL/d(output)."""
        error = self.leaf.grad
        return torch.zeros_like(self.leaf) if error is None else error


class CutNetwork:
    """Module whose points and taps cut the graph of a forward pass into pieces.

    `tap` is the name of the taps that give the error; "" stands for the first name in the module,
    or for the outputs in a module without taps. InputError for an unknown name, and for a module
    without points.
    """

    def __init__(self, module: nn.Module, tap: str = "") -> None:
        self.module = module
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
        self.checking = False
        self.shares = True  # two backward passes may need a part of the graph, until `check`
        self.clear()
        for point in feedback_points(module):
            point.action = self.cut
        for part in self.taps:
            part.action = self.end

    def forward(self, inputs: object) -> torch.Tensor:
        """Return the outputs for a minibatch, and keep the passes of its points."""
        self.clear()
        self.active = True
        try:
            outputs: torch.Tensor = self.module(inputs)
        finally:
            self.active = False
        return outputs if self.taps else self.end_pass(0, outputs)

    def clear(self) -> None:
        """Forget the last forward pass, so that the memory of its graph is freed."""
        self.pending = Pass()  # since the last tap
        self.passes: list[Pass] = []

    def cut(self, point: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """Keep the input of a point, and return it without its history."""
        if not self.active:
            return x
        start, part = x.detach(), self.pending
        if self.checking:
            part.starts.append(start.requires_grad_())
        if x.requires_grad:  # the piece has parameters
            part.ends.append(x)
            part.dims.append(point.batch_dims)
        return start

    def end(self, tap: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """End a pass at a tap of the module."""
        assert isinstance(tap, ErrorTapModule)
        return self.end_pass(self.taps.index(tap), x) if self.active else x

    def end_pass(self, tap: int, x: torch.Tensor) -> torch.Tensor:
        """End a pass; returns x as a leaf, whose gradient becomes the error."""
        part, self.pending = self.pending, Pass()
        self.passes.append(part)
        return part.close(tap, x)

    def check(self, inputs: object) -> None:
        """Check for the inputs of one sample that the outputs depend on points through taps alone.

        InputError for a point behind the tap, and for one that reaches the outputs past the tap.
        """
        self.checking = True
        outputs = self.forward(inputs)
        self.checking = False
        starts = [start for part in self.passes for start in part.starts]
        total = outputs.sum()
        self.shares = overlap([[total], *([*part.ends, part.output] for part in self.passes)])
        grads = torch.autograd.grad(total, starts, allow_unused=True) if starts else ()
        behind = bool(self.pending.starts)
        self.clear()
        if behind or any(grad is not None for grad in grads):
            raise InputError(
                "learning.rule: a feedback point of the model reaches the loss past the tap, so "
                'that its feedback would be wrong; give learning.rule.tap = "outputs", or move '
                "the point or the tap"
            )


def overlap(groups: Sequence[Sequence[torch.Tensor]]) -> bool:
    """Return True if an operation is in the graphs of two groups of tensors."""
    owners: dict[Any, int] = {}
    for number, group in enumerate(groups):
        waiting = [tensor.grad_fn for tensor in group]
        while waiting:
            node = waiting.pop()
            if node is None or hasattr(node, "variable"):  # parameters are no operations
                continue
            owner = owners.setdefault(node, number)
            if owner != number:
                return True
            waiting += [inner for inner, _ in node.next_functions if inner not in owners]
    return False


def feedback_points(module: nn.Module) -> list[FeedbackPointModule]:
    """Return the feedback points of a module; InputError if it has none."""
    points = [part for part in module.modules() if type(part) is FeedbackPointModule]
    if not points:
        raise InputError(f"learning.rule: the model has no feedback point; {CURE}")
    return points
