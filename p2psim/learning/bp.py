"""Backpropagation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2psim.base import Learner
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("rule", "bp", "Rumelhart, Hinton & Williams 1986")
class Backpropagation:
    """g = dL/dx by reverse-mode differentiation; the .grad of every parameter is a view of g."""

    def gradient(
        self, learner: Learner, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[float, torch.Tensor]:
        import torch

        outputs = learner.module(inputs)
        loss = learner.loss(outputs, targets)
        # One gather into g is cheaper than clearing g and letting autograd add to it.
        pieces = torch.autograd.grad(loss, learner.parameters, materialize_grads=True)
        torch.cat([piece.reshape(-1) for piece in pieces], out=learner.g)
        return loss.item(), outputs.detach()
