"""Gradients of a module by a learning rule, in float64, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from p2psim.base import Batch
from p2psim.learning.dfa import DirectFeedbackAlignment
from p2psim.learning.feedback import Pass
from p2psim.registry import find

Tensor = torch.Tensor
Loss = Callable[[Tensor, Tensor], Tensor]
X = torch.randn(9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(9) % 3


class AutogradLearner:
    """A learner by the public functions of torch."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        self.module, self.of_outputs = module.double(), loss
        self.parameters: list[Tensor] = list(module.parameters())
        self.g = torch.empty(0)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return self.of_outputs(outputs, batch.targets)

    def backward(self, loss: Tensor) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]


def make(*layers: nn.Module) -> nn.Sequential:
    """The layers with seeded parameters in float64."""
    torch.manual_seed(0)
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return nn.Sequential(*layers).double()


def bound(module: nn.Module, tap: str = "", **options: Any) -> DirectFeedbackAlignment:
    """The rule, bound to a module."""
    rule: DirectFeedbackAlignment = find("rule", "dfa", Path())(tap=tap, **options)
    rule.bind(module, lambda purpose, own=False: 7 + own)
    return rule


def watched(rule: DirectFeedbackAlignment) -> list[tuple[Pass, Tensor, list[Tensor]]]:
    """A list to which each gradient adds the forward passes, the last one first.

    Each entry has the error and the feedback of the pass as well.
    """
    projected: list[tuple[Pass, Tensor, list[Tensor]]] = []
    project = rule.network.feedback

    def watch(part: Pass, e: Tensor) -> list[Tensor]:
        projected.append((part, e, project(part, e)))
        return projected[-1][2]

    rule.network.feedback = watch
    return projected


def gradients(
    module: nn.Module,
    loss: Loss = functional.cross_entropy,
    targets: Tensor = LABELS,
    rule: Any = None,
    feedback: Callable[[Pass, Tensor], list[Tensor]] | None = None,
) -> list[Tensor | None]:
    """The gradients of all parameters by the rule, with another feedback for each point."""
    rule = rule or bound(module)
    if feedback:
        rule.matrices.layers = feedback
    rule.gradient(AutogradLearner(module, loss), Batch(X, targets, len(X)))
    return [p.grad if p.grad is None else p.grad.clone() for p in module.parameters()]


def backpropagated(
    module: nn.Module, loss: Loss = functional.cross_entropy, targets: Tensor = LABELS
) -> list[Tensor]:
    """The gradients of all parameters by torch alone; call it before a rule is bound."""
    outputs = loss(module(X), targets)
    return list(torch.autograd.grad(outputs, list(module.parameters())))


def largest(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """The largest difference of the entries of two lists of gradients."""
    pairs = zip(one, other, strict=True)
    return max(
        float((a - b).detach().abs().max()) for a, b in pairs if a is not None and b is not None
    )
