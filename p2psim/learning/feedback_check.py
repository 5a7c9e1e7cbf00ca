"""Check of the feedback points and taps of a model by a forward pass, before anything starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from p2psim.errors import InputError
from p2psim.learning.feedback import CURE, CutNetwork, row_axes
from p2psim.models.points import ErrorTapModule, FeedbackPointModule


class CheckedPass:
    """Forward pass of a network whose points and taps return leaves of the graph."""

    def __init__(self, network: CutNetwork, inputs: Any) -> None:
        self.network = network
        self.ends: list[torch.Tensor] = []  # inputs of the points
        self.starts: list[torch.Tensor] = []  # outputs of the points
        self.errors: list[torch.Tensor] = []  # inputs of the taps
        self.leaves: list[torch.Tensor] = []  # outputs of the taps
        self.taps: set[int] = set()  # numbers of the taps that the pass has reached
        self.rows: list[int] = []  # of each point since the last tap
        self.repeats: list[float] = []  # rows of each point for a row of its error
        network.act(self.cut, self.end)
        try:
            outputs = network.module(inputs)
        except RuntimeError as error:
            if "in-place" not in str(error):
                raise
            raise InputError(
                "learning.rule: an operation changes the output of a feedback point or of a tap in "
                "place; let it make a new tensor (inplace=False)"
            ) from None
        finally:
            network.act(network.cut, network.end)
        check_tensor(outputs)
        if not network.taps:
            outputs = self.leaf(0, outputs, row_axes(outputs))
        self.outputs: torch.Tensor = outputs

    def cut(self, point: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """Note the rows of a point."""
        check_axes(point, x)
        self.ends.append(x)
        if x.requires_grad:
            self.rows.append(math.prod(x.shape[: point.batch_dims]))
        self.starts.append(x.detach().requires_grad_())
        return self.starts[-1]

    def end(self, tap: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
        """End a pass at a tap of the module."""
        assert isinstance(tap, ErrorTapModule)
        check_axes(tap, x)
        return self.leaf(self.network.taps.index(tap), x, tap.batch_dims)

    def leaf(self, tap: int, x: torch.Tensor, dims: int) -> torch.Tensor:
        """Note a tap and the rows of the points before it."""
        self.taps.add(tap)
        self.errors.append(x)
        self.repeats += [rows / math.prod(x.shape[:dims]) for rows in self.rows]
        self.rows.clear()
        self.leaves.append(x.detach().requires_grad_())
        return self.leaves[-1]


def check(network: CutNetwork, inputs: Any) -> None:
    """Check the points and taps that a forward pass with the inputs of one sample reaches.

    InputError if a point or a tap is not where its feedback is that of the rule.
    """
    checked = CheckedPass(network, inputs)
    if not checked.starts:
        raise InputError(
            "learning.rule: the forward pass of one sample in evaluation mode reaches no feedback "
            f"point; {CURE}"
        )
    if network.taps:
        check_taps(network, checked)
    check_points(network, checked)
    if CheckedPass(network, twice(inputs)).repeats != checked.repeats:
        raise InputError(
            "learning.rule: the rows of a feedback point do not belong to rows of the error (see "
            "batch_dims in p2psim.layers); give another learning.rule.tap, such as the model's "
            "own choice, or move the tap"
        )


def check_points(network: CutNetwork, checked: CheckedPass) -> None:
    """Check that each point cuts the graph, between layers that learn; InputError otherwise."""
    parameters = list(network.module.parameters())
    before, exact = leaves_of(checked.ends), leaves_of([checked.outputs, *checked.errors])
    if not any(id(p) in before for p in parameters):
        raise InputError(
            "learning.rule: no layer before the feedback points has parameters that could be "
            "trained; move a point behind such a layer, or choose another rule"
        )
    if any(id(start) not in before | exact for start in checked.starts):
        raise InputError(
            "learning.rule: the output of a feedback point is not used, so that the point cuts "
            "nothing; let the layers behind the point take its output in place of its input"
        )
    if all(p.requires_grad and id(p) not in exact for p in parameters):
        raise InputError(
            "learning.rule: a feedback point is behind the last layer, which must learn from the "
            "error itself; move the point before this layer"
        )


def check_taps(network: CutNetwork, checked: CheckedPass) -> None:
    """Check that all points receive the error at the taps, and from there; InputError otherwise."""
    name, others = network.tap, network.choices()
    if len(checked.taps) < len(network.taps):
        raise InputError(
            f"learning.rule.tap = {name!r}: the forward pass does not reach every tap of this name "
            f"in the module; call it in `forward`, remove it, or give {others}"
        )
    gradients = torch.autograd.grad(
        checked.outputs.sum(), [*checked.starts, *checked.leaves], allow_unused=True
    )
    past, known = gradients[: len(checked.starts)], gradients[len(checked.starts) :]
    if any(gradient is not None for gradient in past):
        raise InputError(
            f"learning.rule.tap = {name!r}: a feedback point of the model reaches the loss past "
            "the tap, or is behind it, so that its feedback would be wrong; give "
            f"{others}, or move the point or the tap"
        )
    if any(gradient is None for gradient in known):
        raise InputError(
            f"learning.rule.tap = {name!r}: the outputs of the model do not depend on a tap of "
            "this name, or only through another tap or a feedback point, so that the layers before "
            f"it would learn nothing; remove the tap, or give {others}"
        )


def leaves_of(tensors: Sequence[torch.Tensor]) -> set[int]:
    """Return the ids of the leaves that tensors are computed from, and that have a gradient."""
    leaves = {id(tensor) for tensor in tensors if tensor.is_leaf and tensor.requires_grad}
    seen = set()
    waiting = [tensor.grad_fn for tensor in tensors]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [inner for inner, _ in node.next_functions]
    return leaves


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
