"""Training of the layers behind the last feedback points, as a comparison for feedback rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from p2psim.base import Batch, Learner
from p2psim.errors import InputError
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch
    from torch import nn

    from p2psim.models.points import FeedbackPointModule


@plugin("rule", "shallow", "Launay, Poli, Boniface & Krzakala 2020, section 3")
class Shallow:
    """Backpropagation that ends at the feedback points: the layers below keep their first values.

    Parameters that no gradient reaches are no part of the model's vector x: they are in no message,
    and weight decay does not touch them.
    """

    deterministic = True

    def bind(self, module: nn.Module, key: Callable[..., int]) -> None:
        from p2psim.learning.feedback import feedback_points

        for point in feedback_points(module):
            point.action = cut

    def prepare(self, module: nn.Module, inputs: torch.Tensor) -> None:
        import torch

        from p2psim.learning.feedback_check import check_tensor

        parameters = [p for p in module.parameters() if p.requires_grad]
        outputs = module(inputs)
        check_tensor(outputs)
        if not outputs.requires_grad:
            raise InputError(
                "learning.rule: no layer behind the last feedback point has parameters that could "
                "be trained; move the point before such a layer, or choose another rule"
            )
        grads = torch.autograd.grad(outputs.sum(), parameters, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.requires_grad_(grad is not None)

    def gradient(self, learner: Learner, batch: Batch) -> float:
        loss = learner.loss(learner.module(batch.inputs), batch)
        learner.backward(loss)
        return loss.item()


def cut(point: FeedbackPointModule, x: torch.Tensor) -> torch.Tensor:
    """Return x without its history."""
    return x.detach()
