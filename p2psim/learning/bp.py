"""Backpropagation."""

from __future__ import annotations

from p2psim.base import Batch, Learner
from p2psim.registry import plugin


@plugin("rule", "bp", "Rumelhart, Hinton & Williams 1986")
class Backpropagation:
    """g = dL/dx by reverse-mode differentiation; the .grad of every parameter is a view of g."""

    def gradient(self, learner: Learner, batch: Batch) -> float:
        import torch

        loss = learner.loss(learner.module(batch.inputs), batch)
        # One gather into g is cheaper than clearing g and letting autograd add to it.
        pieces = torch.autograd.grad(loss, learner.parameters, materialize_grads=True)
        torch.cat([piece.reshape(-1) for piece in pieces], out=learner.g)
        return loss.item()
