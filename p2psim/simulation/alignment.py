"""Angles between the gradients of a learning rule and those of backpropagation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from p2psim import rng
from p2psim.base import Vector
from p2psim.experiment.scenario import Scenario
from p2psim.simulation.flat_model import FlatModel, build_module, seed
from p2psim.simulation.minibatches import Samples

PROBE = 1000  # most training samples of the fixed batch


class Alignment:
    """Cosine of each weight gradient with that of backpropagation, at the same model.

    Both are computed on the first training samples of the peer, with the module in evaluation mode:
    dropout would draw different masks. Weights are tensors of two and more dimensions.
    """

    def __init__(self, scenario: Scenario, rank: int, model: FlatModel, samples: Samples) -> None:
        self.seed, self.rank, self.model = scenario.experiment.head.seed, rank, model
        self.rule = scenario.experiment.learning.rule
        self.batch = samples.values(slice(0, PROBE))
        # Built without the rule, which may have added hooks to the module of the peer.
        self.reference = build_module(scenario.experiment).to(model.device)
        names = {id(p): name for name, p in model.module.named_parameters()}
        parameters = dict(self.reference.named_parameters())
        self.weights = [p for p in model.parameters if p.ndim > 1]
        self.references = [parameters[names[id(p)]] for p in self.weights]

    def measure(self, x: Vector, round_: int) -> NDArray[np.float64]:
        """Return the cosines at the model x, shape (weights,); NaN for a gradient that is zero."""
        model = self.model
        model.load(x)
        old_g = model.g.clone()  # the algorithm may still use it
        model.module.eval()
        self.reference.load_state_dict(model.module.state_dict(), strict=False)
        self.reference.eval()
        seed(rng.key(self.seed, "alignment", self.rank, round_), model.device)
        loss = model.loss(self.reference(self.batch.inputs), self.batch)
        exact = torch.autograd.grad(loss, self.references, materialize_grads=True)
        self.rule.gradient(model, self.batch)
        cosines = [cosine(p.grad, grad) for p, grad in zip(self.weights, exact, strict=True)]
        model.module.train()
        model.g.copy_(old_g)
        return np.array(cosines)


def cosine(a: torch.Tensor | None, b: torch.Tensor) -> float:
    """Return the cosine of the angle between two tensors of one shape."""
    assert a is not None
    product = torch.dot(a.flatten().double(), b.flatten().double())
    norms = a.double().norm() * b.double().norm()
    return float(product / norms)
