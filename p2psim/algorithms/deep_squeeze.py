"""DeepSqueeze: gossip on models whose compression error is added to the next message."""

import numpy as np

from p2psim.algorithms.push_sum import PushSum
from p2psim.base import Compressor, Neighborhood, NonNegative, Oracle, Vector
from p2psim.registry import plugin


@plugin("algorithm", "deep-squeeze", "Tang et al. 2019, Algorithm 1; Aketi et al. 2022 (push-sum)")
class DeepSqueeze(PushSum):
    """e_i is the compression error, added in the next step (0 at first).

    x^{1/2} = x - lr dir,  a_i = x_i^{1/2} + e_i,  c_i = C(a_i),  e_i <- a_i - c_i,
    x_i <- x_i^{1/2} + gamma sum_j (W_ij - [i = j]) c_j

    push_sum: the same on numerators x_i and weights u_i, which are not compressed; gradients at
    z_i = x_i / u_i. W is then column-stochastic and may be directed and time-varying.

    Wire: one payload of C, and u_i with push_sum, per neighbor and consensus step.
    """

    gamma: NonNegative = 0.5
    compressor: Compressor = "identity"  # type: ignore[assignment]
    push_sum: bool = False

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        super().start(x, oracle, net)
        self.e = np.zeros_like(self.gossiped(x))

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        x = self.gossiped(x)
        a = x + self.e
        c = net.message(a, self.compressor, raw_tail=self.push_sum)
        self.e = a - c.value
        return self.model(x + self.gamma * (net.mix(c) - c.value))
