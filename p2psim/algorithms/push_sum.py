"""Push-sum: gossip with the exact mean on graphs whose W is only column-stochastic."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from p2psim.base import Algorithm, Neighborhood, Oracle, Vector


class PushSum(Algorithm):
    """Numerator x_i and push-sum weight u_i (1 at first); the model is z_i = x_i / u_i.

    x_i <- x_i - lr dir_i(z_i),  then gossip on x and on u alike,  z_i = x_i / u_i

    Both are parts of one vector [x_i, u_i], shape (d + 1,), so the same operations mix x and u.
    Weight decay acts on z; the model that is evaluated and recorded is z. With push_sum = false
    there is no u, and a subclass gossips x itself. Kempe, Dobra & Gehrke 2003; Assran et al. 2019.
    """

    push_sum = True

    @property
    def requires(self) -> tuple[str, ...]:
        return ("column-stochastic",) if self.push_sum else ("doubly-stochastic", "symmetric")

    def advice(self, properties: Collection[str]) -> str:
        if self.push_sum:
            return ""
        needed = replace(self, push_sum=True).requires  # type: ignore[type-var]
        if {*needed} <= {*properties, "column-stochastic"}:
            return 'set algorithm.push_sum = true and topology.weights = "out-degree"'
        return ""

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        if self.push_sum:
            self.xu = np.append(x, x.dtype.type(1))

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        if not self.push_sum:
            return super().local(x, oracle, net)
        for _ in range(oracle.local_steps):
            oracle.local_step(self.xu[:-1], at=self.model(self.xu))
        return self.model(self.xu)

    def gossiped(self, x: Vector) -> Vector:
        """Return the vector to gossip for the model x: [x_i, u_i], shape (d + 1,), or x itself."""
        return self.xu if self.push_sum else x

    def model(self, y: Vector) -> Vector:
        """Store y, the gossiped vector after a step, and return its model z, shape (d,).

        FloatingPointError if u is not above 0: z would be finite, but meaningless.
        """
        if not self.push_sum:
            return y
        if not y[-1] > 0:
            raise FloatingPointError(f"the push-sum weight has become {y[-1]:.3g}: lower gamma")
        self.xu = y
        z: Vector = y[:-1] / y[-1]
        return z
