"""Backpropagation."""

from __future__ import annotations

from p2psim.base import Batch, Learner
from p2psim.registry import plugin


@plugin("rule", "bp", "Rumelhart, Hinton & Williams 1986")
class Backpropagation:
    """g = dL/dx by reverse-mode differentiation."""

    deterministic = True

    def gradient(self, learner: Learner, batch: Batch) -> float:
        loss = learner.loss(learner.module(batch.inputs), batch)
        learner.backward(loss)
        return loss.item()
