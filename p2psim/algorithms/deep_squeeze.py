"""DeepSqueeze: error-compensated compression of the models themselves."""

import numpy as np

from p2psim.base import Algorithm, Compressor, Neighborhood, NonNegative, Oracle, Vector
from p2psim.registry import plugin


@plugin("algorithm", "deep-squeeze", "Tang et al. 2019, Algorithm 1")
class DeepSqueeze(Algorithm):
    """e_i is the compression error carried on (0 at first).

    x^{1/2} = x - lr dir,  a_i = x_i^{1/2} + e_i,  c_i = C(a_i),  e_i <- a_i - c_i,
    x_i <- x_i^{1/2} + gamma sum_j (W_ij - [i = j]) c_j

    Wire: one payload of C per neighbor and consensus step.
    """

    requires = ("doubly-stochastic", "symmetric")
    gamma: NonNegative = 0.5
    compressor: Compressor = "identity"  # type: ignore[assignment]

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        self.e = np.zeros_like(x)

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        a = x + self.e
        c = net.message(a, self.compressor)
        self.e = a - c.value
        return x + self.gamma * (net.mix(c) - c.value)
