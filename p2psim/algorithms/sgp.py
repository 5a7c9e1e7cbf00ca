"""Stochastic gradient push: gossip on directed and time-varying graphs."""

import numpy as np

from p2psim.base import Algorithm, Neighborhood, Oracle, Vector
from p2psim.registry import plugin


@plugin("algorithm", "sgp", "Assran, Loizou, Ballas & Rabbat 2019, Algorithm 1")
class StochasticGradientPush(Algorithm):
    """Numerator x_i, push-sum weight u_i (1 at first), model z_i = x_i / u_i.

    x_i <- x_i - lr dir_i(z_i),  x_i <- sum_j W_ij x_j,  u_i <- sum_j W_ij u_j,  z_i = x_i / u_i

    W is column-stochastic, otherwise free: directed, unbalanced, time-varying. Weight decay acts
    on z. The model that is evaluated and recorded is z. Wire: 4d + 4 bytes per out-neighbor.
    """

    requires = ("column-stochastic",)

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        self.xu = np.append(x, x.dtype.type(1))  # numerator and weight travel as one vector

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        for _ in range(oracle.local_steps):
            oracle.descend(self.xu[:-1], at=self.z())
        return self.z()

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        self.xu = net.mix(self.xu)
        return self.z()

    def z(self) -> Vector:
        """The de-biased model x / u."""
        z: Vector = self.xu[:-1] / self.xu[-1]
        return z
