"""P2PL with Affinity: T local steps, S consensus steps, and a bias toward one's neighbors."""

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

EDGE = 1e-9  # of a spectral radius of 1: rounding


@plugin("algorithm", "p2pl", "Pranav & Moura 2023 (with Affinity); 2310.18861 (max-norm start)")
class P2PL(Algorithm):
    """Round r of device k on the model w_k; alpha = W (weights = "data-size" is the paper's).

    local:      w_k <- w_k - lr dir(w_k) + eta_d d_k,                            T times
    consensus:  w_k <- w_k + eps_k sum_j alpha_kj (w_j - w_k) + eta_b b_k,       S times
    affinity:   d_k = 1/T sum_{j != k} beta_kj (w_j^{S-1} - w_k^{ref}),  0 at first,
                beta_kj = alpha_kj / (1 - alpha_kk) = n_j / sum_{i in N(k)} n_i  with "data-size"

    from the values of the last consensus step: d costs no traffic. affinity_ref = "pre" is the
    update as printed, ref = S-1, and often diverges (`p2psim plan` says where); "post", ref = S,
    is what the paper's text describes: without a gradient, T local steps lead to sum_j beta_kj w_j.
    bias = "printed" is equation (4) with b_k = w_k / S after local learning, which for eta_b = 1
    and eta_d = 0 doubles the norms; "anchored" is (1 - eta_b) (the above without b) + eta_b w_k.

    Special cases: eta_d = eta_b = 0 is P2PL, with eps = 1 local DSGD, and with T = S = 1 DSGD.

    Start: for `sync_rounds` rounds (the diameter if not given: then all are equal) every device
    adopts the model of largest norm among its own and its neighbors', ties going to the lowest rank
    that it began with; granularity = "layer" chooses each tensor by itself. model.init = "own"
    gives every device a first model of its own.

    Wire: 4d bytes per neighbor and consensus step; at the start 4d + 4 (or 4 for each tensor) per
    neighbor and round.
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
        """The rounds at the start all happen on the graph of the first step."""
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
        w: Vector = self.moved(x, mean, self.eps, self.b)
        if self.eta_d:
            ref = w if self.affinity_ref == "post" else x
            # sum_{j != k} beta_kj w_j; a device without neighbors in this step has no bias.
            near = (mean - own * x) / (1 - own) if own < 1 else ref
            self.d = (near - ref) / oracle.local_steps
        return w

    def moved(self, x: Any, mean: Any, eps: Any, b: Any) -> Any:
        """One consensus step: x toward `mean` = sum_j alpha_kj w_j, self included, and bias b."""
        w = mean if np.all(eps == 1) else x + eps * (mean - x)
        if not self.eta_b:
            return w
        return w + self.eta_b * b if self.bias == "printed" else w + self.eta_b * (b - w)

    def diagnose(self, weights: Any, consensus_steps: int) -> dict[str, str]:
        """The spectral radius of one round's map on disagreements, gradients left out.

        With S = 1, eps = 1, eta_b = 0: A - eta_d (I - B) for "pre", A + eta_d (B - A) for "post".
        """
        n, rounds = weights.shape[-1], len(weights) // np.gcd(len(weights), consensus_steps)
        U = np.eye(n)  # row k: w_k as a combination of all models at the beginning
        for r in range(rounds):
            steps = range(r * consensus_steps, (r + 1) * consensus_steps)
            U = self.one_round(U, [weights[t % len(weights)] for t in steps])
        # Differences to the last device obey this map, for every row of U has the same sum.
        apart = np.abs(np.linalg.eigvals(U[:-1, :-1] - U[-1:, :-1])).max(initial=0.0)
        radius, growth = apart ** (1 / rounds), U[0].sum() ** (1 / rounds)
        said = {"disagreement": f"times {radius:.4f} a round, gradients left out"}
        if radius >= 1 + (EDGE if self.affinity_ref == "post" else -EDGE) or growth > 1 + EDGE:
            what, cures = "all models", ['set bias = "anchored"', "set eta_b = 0"]
            if radius >= growth - EDGE:
                what, cures = "differences between models", self.cures()
            verdict = "diverges" if max(radius, growth) > 1 + EDGE else "does not converge"
            factor = f"{max(radius, growth):.4g} in every round"
            cure = " or ".join(cures)
            said["warning"] = f"this {verdict}: {what} are multiplied by {factor}; {cure}"
        return said

    def cures(self) -> list[str]:
        """What makes differences between models shrink."""
        made = ["lower eta_d"] if self.eta_d else []
        if self.eta_d and self.affinity_ref == "pre":
            made.append('set affinity_ref = "post"')
        return made + ["lower epsilon"] * bool(np.max(self.epsilon) > 1) or ["choose other weights"]

    def one_round(self, U: Any, weights: list[Any]) -> Any:
        """All devices' models, one a row, from after one local phase to after the next."""
        eps, first = np.reshape(self.epsilon, (-1, 1)), U
        b = first / len(weights) if self.bias == "printed" else first
        for A in weights:
            before = U
            U = self.moved(before, A @ before, eps, b)
        ref = U if self.affinity_ref == "post" else before
        own = A.diagonal()[:, None]
        near = (A @ before - own * before) / np.where(own < 1, 1 - own, 1)
        return U + self.eta_d * np.where(own < 1, near - ref, 0)
