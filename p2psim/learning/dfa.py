"""Direct Feedback Alignment: learning without the transport of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from p2psim.base import Batch, Learner
from p2psim.errors import InputError
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch
    from torch import nn

    from p2psim.learning.feedback import Pass


@plugin("rule", "dfa", "Nokland 2016; Launay, Poli, Boniface & Krzakala 2020")
class DirectFeedbackAlignment:
    """Each layer learns from a fixed random projection of the error, not from the layer above.

        a_i = W_i h_{i-1},  h_i = f_i(a_i)                                  (Launay et al., eq. 1)
        delta a_i = (B_i e) * f_i'(a_i),  delta W_i = - delta a_i h_{i-1}^T                 (eq. 3)

    e = dL/d(outputs) is the error, with the 1 / batch of a mean loss. The last layer is exact. B_i
    is the first `size of h_i` columns of one matrix B with entries from U[-1, 1), divided by
    sqrt(largest size); each tap of a model has its own B. The feedback enters at the model's points
    (p2psim.layers.FeedbackPoint); what lies between two points is differentiated exactly. If a
    point has R rows for each row of e, the rows of B e are repeated and divided by sqrt(R).

    `feedback`: "shared" draws the same B on all peers, "own" another one on each. B is no part of
    the model, of messages or of checkpoints. `tap`: place whose error is projected, by its name in
    the model, or "outputs"; "" is the model's own choice.
    """

    feedback: Literal["shared", "own"] = "shared"
    tap: str = ""

    deterministic = True

    def bind(self, module: nn.Module, key: Callable[..., int]) -> None:
        from p2psim.learning.feedback import CutNetwork

        own = self.feedback == "own"
        self.matrices = Matrices(lambda tap: key(f"feedback {tap}", own=own))
        self.network = CutNetwork(module, self.matrices.project, self.tap)

    def prepare(self, module: nn.Module, inputs: torch.Tensor) -> None:
        from p2psim.learning.feedback_check import check

        check(self.network, inputs)

    def gradient(self, learner: Learner, batch: Batch) -> float:
        loss = learner.loss(self.network.forward(batch.inputs), batch)
        learner.backward(loss)
        return loss.item()


class Form(NamedTuple):
    """Form of the feedback of a point."""

    size: int  # entries of a row of the point
    times: int  # rows of the point for each row of e
    shape: torch.Size


class Plan(NamedTuple):
    """Feedback of a pass, prepared for the shapes of its error and of its points."""

    rows: tuple[int, int] | None  # shape of e, if the error has another one
    matrix: torch.Tensor  # B
    forms: list[Form | None]  # of each point; None for e B itself


class Matrices:
    """The matrix B of each tap, drawn from key(tap) at its first use.

    `layers` replaces B_i e, divisor included, by a function of a pass and its error, with one row
    for each row of e.
    """

    def __init__(self, key: Callable[[int], int]) -> None:
        self.key = key
        self.drawn: dict[int, torch.Tensor] = {}
        self.plans: dict[Any, Plan] = {}  # minibatches have few shapes
        self.layers: Callable[[Pass, torch.Tensor], list[torch.Tensor]] | None = None

    def project(self, part: Pass, error: torch.Tensor) -> list[torch.Tensor]:
        """Return the feedback of each point of a pass, in the shape of the point's output."""
        if not part.ends:
            return []
        key = (part.tap, error.shape, *part.dims, *[end.shape for end in part.ends])
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans[key] = self.plan(part, error)
        e = error.reshape(plan.rows) if plan.rows else error
        layers, forms = self.layers, plan.forms
        projected = layers(part, e) if layers else [e @ plan.matrix] * len(forms)
        return [
            spread(feedback, form) if form else feedback
            for feedback, form in zip(projected, forms, strict=True)
        ]

    def plan(self, part: Pass, error: torch.Tensor) -> Plan:
        """Prepare the feedback of a pass.

        InputError if the rows of the error do not divide those of a point.
        """
        rows = math.prod(error.shape[: part.tap_dims])
        forms = []
        for end, dims in zip(part.ends, part.dims, strict=True):
            own = math.prod(end.shape[:dims])
            times, rest = divmod(own, rows)
            if rest or not times:
                raise InputError(
                    f"learning.rule: a feedback point has {own} rows, and "
                    f"its error has {rows}; give the point the number of leading axes that the "
                    "error has (batch_dims)"
                )
            forms.append(Form(math.prod(end.shape[dims:]), times, end.shape))
        largest = max(form.size for form in forms)
        e = error.reshape(rows, -1)
        return Plan(
            None if e.shape == error.shape else (rows, e.shape[1]),
            self.matrix(part.tap, e, largest),
            [None if form.shape == (rows, largest) else form for form in forms],
        )

    def matrix(self, tap: int, e: torch.Tensor, size: int) -> torch.Tensor:
        """Return B / sqrt(size), shape (entries of a row of e, size)."""
        import torch

        if tap not in self.drawn:
            entries = np.random.default_rng(self.key(tap)).uniform(-1, 1, (e.shape[1], size))
            self.drawn[tap] = torch.from_numpy(entries / math.sqrt(size)).to(e)
        return self.drawn[tap]


def spread(feedback: torch.Tensor, form: Form) -> torch.Tensor:
    """Return the feedback of a row of e for all rows of a point, divided by sqrt(their number)."""
    feedback = feedback[:, : form.size]
    if form.times > 1:
        feedback = feedback.repeat_interleave(form.times, 0) / math.sqrt(form.times)
    return feedback.reshape(form.shape)
