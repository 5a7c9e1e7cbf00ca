"""Adam and, with decoupled weight decay, AdamW, as torch.optim defines them."""

from __future__ import annotations

import math

import numpy as np

from p2psim.base import NonNegative, Positive, Vector
from p2psim.learning.optimizer import Descent, check_fraction
from p2psim.registry import plugin


@plugin("optimizer", "adam", "Kingma & Ba 2015, Algorithm 1")
class Adam(Descent):
    """g' = g + wd x;  m <- beta1 m + (1 - beta1) g';  v <- beta2 v + (1 - beta2) g'^2
    direction = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon),  t = 1, 2, ...

    `decoupled`: AdamW of Loshchilov & Hutter 2019, Algorithm 2: g' = g, and wd x is added to the
    direction. `clip` and `decayed` act as in sgd. Each peer has its own m and v, which are not
    mixed. No traffic.
    """

    lr: NonNegative = 1e-3
    beta1: NonNegative = 0.9
    beta2: NonNegative = 0.999
    epsilon: Positive = 1e-8
    decoupled: bool = False

    def __post_init__(self) -> None:
        check_fraction(beta1=self.beta1, beta2=self.beta2)

    def start(self, x: Vector) -> None:
        super().start(x)
        self.m, self.v, self.t = np.zeros_like(x), np.zeros_like(x), 0

    def direction(self, g: Vector, x: Vector) -> Vector:
        g = self.clipped(g) if self.decoupled else self.regularized(g, x)
        self.t += 1
        result = self.buffer("direction", x)
        self.adapt(g, result)
        return self.add_decay(result, x, result) if self.decoupled else result

    def adapt(self, g: Vector, out: Vector) -> None:
        """Update m and v for step t and write the direction into `out`.

        torch's kernels work in place; NumPy would allocate vectors of length d.
        """
        import torch

        grad, m, v, result = map(torch.from_numpy, (g, self.m, self.v, out))
        m.lerp_(grad, 1 - self.beta1)
        v.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        torch.sqrt(v, out=result)
        result.div_(math.sqrt(1 - self.beta2**self.t)).add_(self.epsilon)
        torch.div(m, result, out=result)
        result.div_(1 - self.beta1**self.t)
