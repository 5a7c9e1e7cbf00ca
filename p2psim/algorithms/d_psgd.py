"""D-PSGD, with DSGD and local DSGD as special cases: dense gossip on the models."""

from typing import Literal

import numpy as np

from p2psim.base import Algorithm, Handle, Neighborhood, Oracle, Vector
from p2psim.registry import plugin


@plugin("algorithm", "d-psgd", "Lian et al. 2017, Algorithm 1 (cta); Sayed 2014, section 7.2 (atc)")
class DPSGD(Algorithm):
    """Adapt-then-combine ("atc") or combine-then-adapt ("cta"); T local, S consensus steps.

    atc:  x_i^{t+1/2} = x_i^t - sum of T steps lr dir_i,   x_i^{t+1} = sum_j W^S_ij x_j^{t+1/2}
    cta:  x_i^{t+1} = sum_j W^S_ij x_j^t - delta_i,  delta_i = the sum of T local steps from x_i^t,
          so the first exchange overlaps the computation of the gradient.

    T = S = 1 is D-PSGD (DSGD), T > 1 local DSGD. Wire: 4d bytes per neighbor and consensus step.
    """

    requires = ("row-stochastic",)
    order: Literal["atc", "cta"] = "atc"

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        if self.order == "cta":
            self.exchange: Handle | None = net.start_exchange(x)
            before = x.copy()  # x^t, which the local steps overwrite
            x = super().local(x, oracle, net)
            self.delta = np.subtract(before, x, out=before)
            return x
        return super().local(x, oracle, net)

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        if self.order == "atc":
            return net.mix(x, overwrite=True)
        if self.exchange:  # the first of S consensus steps
            self.mixed, self.exchange = self.exchange.mix(), None
        else:
            self.mixed = net.mix(self.mixed)
        return np.subtract(self.mixed, self.delta)
