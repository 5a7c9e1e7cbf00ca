"""CHOCO-SGD: gossip on public copies, updated by compressed differences."""

from typing import Literal

import numpy as np

from p2psim.algorithms.push_sum import PushSum
from p2psim.base import (
    Compressor,
    Handle,
    Message,
    Neighborhood,
    NonNegative,
    Oracle,
    Vector,
)
from p2psim.registry import plugin


@plugin(
    "algorithm",
    "choco-sgd",
    "Koloskova, Stich & Jaggi 2019, Algorithm 2; Koloskova et al. 2020, Algorithm 1 (stale); "
    "Taheri et al. 2020 (push-sum)",
)
class ChocoSGD(PushSum):
    """x_hat_i is peer i's public copy (0 at first), s_i = sum_j W_ij x_hat_j.

    fresh:  x^{t+1/2} = x - lr dir,  q_i = C(x_i^{t+1/2} - x_hat_i),  x_hat_j += q_j,
            x_i^{t+1} = x_i^{t+1/2} + gamma sum_j W_ij (x_hat_j - x_hat_i)
    stale:  x_i^{t+1} = x_i^{t+1/2} + gamma sum_j W_ij (x_hat_j - x_hat_i) with the old copies,
            then q_i = C(x_i^{t+1} - x_hat_i) is sent while the next gradient is computed.

    push_sum: the same on numerators x_i and weights u_i, whose difference u_i - u_hat_i is not
    compressed; gradients at z_i = x_i / u_i. W is then column-stochastic and may be directed.

    Wire: one payload of C, and u_i with push_sum, per neighbor and consensus step.
    """

    gamma: NonNegative = 0.5
    variant: Literal["fresh", "stale"] = "fresh"
    compressor: Compressor = "identity"  # type: ignore[assignment]
    push_sum: bool = False

    @property
    def requires(self) -> tuple[str, ...]:
        """Properties of W: s_i accumulates W_ij q_j over all steps, so W must also be static."""
        return *super().requires, "static"

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        super().start(x, oracle, net)
        x = self.gossiped(x)
        self.x_hat, self.s = np.zeros_like(x), np.zeros_like(x)
        self.pending: tuple[Message, Handle] | None = None  # own q_i, and the exchange of all q_j

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        x = self.gossiped(x)
        if self.variant == "stale":
            return self.model(self.gossip_stale(x, net))
        q = net.message(x - self.x_hat, self.compressor, raw_tail=self.push_sum)
        self.x_hat += q.value
        self.s += net.mix(q)
        return self.model(x + self.gamma * (self.s - self.x_hat))

    def gossip_stale(self, x: Vector, net: Neighborhood) -> Vector:
        """Receive the q_j of the step before, mix, start to send the new q_i; return x."""
        if self.pending:
            q, exchange = self.pending
            self.s += exchange.mix()
            self.x_hat += q.value
        x = x + self.gamma * (self.s - self.x_hat)
        q = net.message(x - self.x_hat, self.compressor, raw_tail=self.push_sum)
        self.pending = q, net.start_exchange(q)
        return x
