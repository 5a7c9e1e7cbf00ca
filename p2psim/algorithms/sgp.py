"""Stochastic gradient push: gossip on directed and time-varying graphs."""

from p2psim.algorithms.push_sum import PushSum
from p2psim.base import Neighborhood, Oracle, Vector
from p2psim.registry import plugin


@plugin("algorithm", "sgp", "Assran, Loizou, Ballas & Rabbat 2019, Algorithm 1")
class StochasticGradientPush(PushSum):
    """Numerator x_i, push-sum weight u_i (1 at first), model z_i = x_i / u_i.

    x_i <- x_i - lr dir_i(z_i),  x_i <- sum_j W_ij x_j,  u_i <- sum_j W_ij u_j,  z_i = x_i / u_i

    W is column-stochastic, otherwise free: directed, unbalanced, time-varying. Weight decay acts
    on z. The model that is evaluated and recorded is z. Wire: 4d + 4 bytes per out-neighbor.
    """

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        return self.model(net.mix(self.gossiped(x)))
