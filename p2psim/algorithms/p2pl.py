"""P2PL with Affinity: T local steps, S consensus steps, and a bias toward the neighbors."""

from typing import Any, Literal

import numpy as np

from p2psim.algorithms.max_norm import synchronize
from p2psim.base import (
    Algorithm,
    Natural,
    Neighborhood,
    NonNegative,
    Oracle,
    Positive,
    Setting,
    Vector,
)
from p2psim.registry import plugin

MOST_STEPS = 1000  # consensus steps of a round that `diagnose` computes
TOLERANCE = 1e-9  # for rounding in a spectral radius of 1


@plugin("algorithm", "p2pl", "Pranav & Moura 2023 (with Affinity); 2310.18861 (max-norm start)")
class P2PL(Algorithm):
    """Round r of device k on the model w_k; alpha = W (weights = "data-size" is the paper's).

    local:      w_k <- w_k - lr dir(w_k) + eta_d d_k,                            T times
    consensus:  w_k <- w_k + eps_k sum_j alpha_kj (w_j - w_k) + eta_b b_k,       S times
    affinity:   d_k = 1/T sum_{j != k} beta_kj (w_j^{S-1} - w_k^{ref}),  0 at first,
                beta_kj = alpha_kj / (1 - alpha_kk) = n_j / sum_{i in N(k)} n_i  with "data-size"

    from the values of the last consensus step: d_k costs no traffic. affinity_ref = "pre" is the
    printed update, ref = S-1, and often diverges (`p2psim plan` warns then); "post", ref = S, is
    what the text describes: T local steps without gradients lead to sum_j beta_kj w_j.
    bias = "printed" is equation (4) with b_k = w_k / S after local learning, which for eta_b = 1
    and eta_d = 0 doubles the norms; "anchored" is (1 - eta_b) (the above without b) + eta_b w_k.

    Special cases: eta_d = eta_b = 0 is P2PL, with eps = 1 local DSGD, and with T = S = 1 DSGD.

    Start: for `sync_rounds` rounds (default: the graph's diameter, which makes all models equal)
    every device adopts the model of largest norm among its own and its neighbors' models; of equal
    norms, the one that started at the lowest rank. granularity = "layer" chooses each tensor by
    itself. model.init = "own" gives every device an initial model of its own.

    Wire: 4d bytes per neighbor and consensus step; at the start, per neighbor and round, 4d + 4
    bytes (granularity = "layer": 4d + 4L for L tensors).
    """

    eta_d: NonNegative = 1.0
    affinity_ref: Literal["post", "pre"] = "post"
    epsilon: Positive | list[Positive] = 1.0
    eta_b: NonNegative = 0.0
    bias: Literal["anchored", "printed"] = "anchored"
    sync_rounds: Natural | None = None
    granularity: Literal["model", "layer"] = "model"

    def __post_init__(self) -> None:
        if self.bias == "anchored" and self.eta_b > 1:
            raise ValueError(f"eta_b = {self.eta_b}: with bias = 'anchored' give 0 to 1")

    @property
    def requires(self) -> tuple[str, ...]:
        """Properties of W: the rounds at the start all use the first graph, so W must be static."""
        return ("row-stochastic",) if self.sync_rounds == 0 else ("row-stochastic", "static")

    def bind(self, setting: Setting) -> None:
        peers = setting.peers
        if isinstance(self.epsilon, list) and len(self.epsilon) != peers:
            raise ValueError(
                f"epsilon has {len(self.epsilon)} entries for {peers} peers; "
                "give one for each, or one number for all"
            )
        if (self.sync_rounds or 0) > peers:
            raise ValueError(
                f"sync_rounds = {self.sync_rounds}: give at most {peers}, the number of peers; "
                "after as many rounds as the graph's diameter nothing changes"
            )

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        eps = self.epsilon
        self.eps = eps[net.rank] if isinstance(eps, list) else eps
        self.d, self.b = np.zeros_like(x), np.zeros_like(x)
        rounds = net.diameter if self.sync_rounds is None else self.sync_rounds
        shapes = [x.shape] if self.granularity == "model" else oracle.shapes
        synchronize(x, shapes, rounds, net)

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        if self.eta_d:
            drift = self.eta_d * self.d
            for _ in range(oracle.local_steps):
                x = oracle.local_step(x)
                x += drift
        else:
            x = super().local(x, oracle, net)
        if self.eta_b:
            self.b = x / oracle.consensus_steps if self.bias == "printed" else x.copy()
        return x

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        own, mean = float(net.weights[net.rank, net.rank]), net.mix(x)
        w: Vector = self.consensus_step(x, mean, self.eps, self.b)
        if self.eta_d:
            ref = w if self.affinity_ref == "post" else x
            # sum_{j != k} beta_kj w_j; without neighbors in this step the affinity is 0.
            neighbors = (mean - own * x) / (1 - own) if own < 1 else ref
            self.d = (neighbors - ref) / oracle.local_steps
        return w

    def consensus_step(self, x: Any, mean: Any, eps: Any, b: Any) -> Any:
        """Return w_k after one consensus step from x; mean = sum_j alpha_kj w_j, self included."""
        w = mean if np.all(eps == 1) else x + eps * (mean - x)
        if not self.eta_b:
            return w
        return w + self.eta_b * b if self.bias == "printed" else w + self.eta_b * (b - w)

    def diagnose(self, weights: Any, consensus_steps: int) -> dict[str, str]:
        """Return the spectral radius of one round's map on disagreements, without gradients.

        With S = 1, eps = 1, eta_b = 0: A - eta_d (I - B) for "pre", A + eta_d (B - A) for "post".
        A "warning" says that the models or their differences grow, and what to change.
        """
        n, period = weights.shape[-1], len(weights)
        # Mixing settles within MOST_STEPS steps: beyond, whole periods are left out.
        consensus_steps -= max(0, (consensus_steps - MOST_STEPS) // period) * period
        rounds = period // np.gcd(period, consensus_steps)
        U = np.eye(n)  # row k: w_k as a linear combination of all devices' initial models
        for r in range(rounds):
            steps = range(r * consensus_steps, (r + 1) * consensus_steps)
            U = self.map_one_round(U, [weights[t % period] for t in steps])
        # Every row of U has the same sum, so the differences to the last device obey this map.
        largest = np.abs(np.linalg.eigvals(U[:-1, :-1] - U[-1:, :-1])).max(initial=0.0)
        radius, growth = largest ** (1 / rounds), U[0].sum() ** (1 / rounds)
        lines = {"disagreement": f"times {radius:.4f} a round, gradients left out"}
        # With "post" a radius of 1 is usual (two peers, rings): only a larger one is a warning.
        limit = 1 + (TOLERANCE if self.affinity_ref == "post" else -TOLERANCE)
        if radius >= limit or growth > 1 + TOLERANCE:
            growing, cures = "all models", ['set bias = "anchored"', "set eta_b = 0"]
            if radius >= growth - TOLERANCE:
                growing, cures = "differences between models", self.cures()
            verdict = "diverges" if max(radius, growth) > 1 + TOLERANCE else "does not converge"
            factor = f"{max(radius, growth):.4g} in every round"
            cure = " or ".join(cures)
            lines["warning"] = f"this {verdict}: {growing} are multiplied by {factor}; {cure}"
        return lines

    def cures(self) -> list[str]:
        """Return the changes of parameters that make differences between models shrink."""
        cures = ["lower eta_d"] if self.eta_d else []
        if self.eta_d and self.affinity_ref == "pre":
            cures.append('set affinity_ref = "post"')
        if np.max(self.epsilon) > 1:
            cures.append("lower epsilon")
        return cures or ["choose other weights"]

    def map_one_round(self, U: Any, weights: list[Any]) -> Any:
        """Return U after S consensus steps and the drift T eta_d d_k of the T local steps after."""
        eps = np.reshape(self.epsilon, (-1, 1))
        b = U / len(weights) if self.bias == "printed" else U
        for A in weights:
            before = U
            U = self.consensus_step(before, A @ before, eps, b)
        ref = U if self.affinity_ref == "post" else before
        own = A.diagonal()[:, None]
        neighbors = (A @ before - own * before) / np.where(own < 1, 1 - own, 1)
        return U + self.eta_d * np.where(own < 1, neighbors - ref, 0)
