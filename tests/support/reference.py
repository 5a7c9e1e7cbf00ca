"""Reference implementations of the algorithms: all peers as one matrix, float64, plain NumPy.

Row i of X (n, d) is the model of peer i. W[i, j] is the weight with which peer i mixes the message
of peer j. The peers minimize f_i(x) = ||A_i x - b_i||^2 / (2 m). The code is independent of p2psim,
does not aim at speed, and follows the papers, or the documentation where a paper leaves a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float64]
Compressor: TypeAlias = Callable[[Matrix], Matrix]  # one peer's vector


# Graphs


def complete(n: int) -> Matrix:
    """W = J."""
    return np.full((n, n), 1 / n)


def directed(n: int) -> Matrix:
    """Return weights of a graph in which j sends to j + 1 and j + 2; all weights differ."""
    W = np.diag(np.arange(1.0, n + 1))
    for j in range(n):
        for step in (1, 2):
            if n > step:
                W[(j + step) % n, j] = 10 * step + j
    return W


def ring(n: int) -> Matrix:
    """W_ij = 1/3 for j = i and for both neighbors of i."""
    W = np.zeros((n, n))
    for i in range(n):
        W[i, i] = W[i, (i - 1) % n] = W[i, (i + 1) % n] = 1 / 3
    return W


def directed_ring(n: int, hop: int = 1) -> Matrix:
    """W_ii = W_{i, i - hop} = 1/2."""
    W = np.zeros((n, n))
    for i in range(n):
        W[i, i] = W[i, (i - hop) % n] = 1 / 2
    return W


def one_peer_exponential(n: int) -> list[Matrix]:
    """In step t peer i sends to peer i + 2^t modulo n; the period is ceil(log2 n) steps."""
    return [directed_ring(n, 2**t) for t in range(int(np.ceil(np.log2(n))))]


def metropolis(linked: Matrix) -> Matrix:
    """W_ij = 1 / (1 + max(deg_i, deg_j)) for neighbors; W_ii makes the row sum 1."""
    n, degree = len(linked), linked.sum(axis=1)
    W = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j and linked[i, j]:
                W[i, j] = 1 / (1 + max(degree[i], degree[j]))
        W[i, i] = 1 - W[i].sum()
    return W


def out_degree(linked: Matrix) -> Matrix:
    """W_ij = 1 / (outdeg_j + 1) for j -> i and j = i: the columns sum to 1."""
    n = len(linked)
    W = np.zeros((n, n))
    for j in range(n):
        receivers = [i for i in range(n) if i == j or linked[i, j]]
        W[receivers, j] = 1 / len(receivers)
    return W


def in_degree(linked: Matrix) -> Matrix:
    """W_ij = 1 / (indeg_i + 1): the rows sum to 1."""
    return out_degree(linked.T).T


# Compressors


def identity(v: Matrix) -> Matrix:
    return v.copy()


def top_k(keep: float) -> Compressor:
    """Keep the max(1, floor(m keep)) entries of largest magnitude; the others become 0."""

    def compress(v: Matrix) -> Matrix:
        k = max(1, int(np.floor(v.size * keep + 1e-9)))
        order = sorted(range(v.size), key=lambda i: (-abs(v[i]), i))
        out = np.zeros_like(v)
        for i in order[:k]:
            out[i] = v[i]
        return out

    return compress


def sign(v: Matrix) -> Matrix:
    """sign(x) ||x||_1 / m."""
    mean = sum(abs(value) for value in v) / v.size
    return np.array([-mean if value < 0 else mean for value in v])


def affine_8(v: Matrix) -> Matrix:
    """q = clamp(round((x - min) / sigma), 0, 255); the value is q sigma + min."""
    low = v.min()
    sigma = max((v.max() - low) / 255, 1e-8)
    return np.array([min(max(round((value - low) / sigma), 0), 255) * sigma + low for value in v])


# Problems and local steps


@dataclass(frozen=True)
class Setup:
    """Problem, network and parameters of a method; `options` are parameters of one method only."""

    A: Matrix  # (n, m, d)
    b: Matrix  # (n, m)
    x0: Matrix  # (n, d)
    weights: Sequence[Matrix]  # W of consensus step t is weights[t % len(weights)]
    rounds: int = 100
    local_steps: int = 1  # T
    consensus_steps: int = 1  # S
    lr: float = 0.05
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    gamma: float = 1.0
    compress: Compressor = identity
    options: Mapping[str, Any] = field(default_factory=dict)
    # (n, steps), seconds of local steps: see reference_time.py
    times: Matrix = field(default_factory=lambda: np.ones((1, 1)))
    # Source of random relative errors of all stored values, as large as those of float32.
    rounding: np.random.Generator | None = None

    @property
    def n(self) -> int:
        return len(self.A)

    def mixing(self, t: int) -> Matrix:
        return self.weights[t % len(self.weights)]

    def gradient(self, X: Matrix) -> Matrix:
        """Return the gradients (n, d); row i is A_i^T (A_i x_i - b_i) / m."""
        rows = [a.T @ (a @ x - b) / len(b) for a, b, x in zip(self.A, self.b, X, strict=True)]
        return self.stored(np.array(rows))

    def stored(self, X: Matrix) -> Matrix:
        """Return X, with random relative errors of the size of float32 roundings if requested."""
        if self.rounding is None:
            return X
        return X * (1 + np.finfo(np.float32).eps / 2 * self.rounding.standard_normal(X.shape))

    def compressed(self, X: Matrix) -> Matrix:
        """Return X with every row compressed separately."""
        return np.array([self.compress(x) for x in X])


class LocalSteps:
    """Local steps of SGD for all peers at once; the state is the momentum V (n, d)."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.V: Matrix | None = None

    def change(self, G: Matrix, X: Matrix) -> Matrix:
        """Return lr times the direction of SGD from gradients G at X (n, d)."""
        s = self.setup
        decayed = G + s.weight_decay * X
        self.V = decayed if self.V is None else s.momentum * self.V + decayed
        return s.lr * (decayed + s.momentum * self.V if s.nesterov else self.V)

    def take(self, X: Matrix, u: Matrix | float = 1.0) -> Matrix:
        """Return X after T local steps of every peer; u: push-sum weights, gradients at X / u."""
        for _ in range(self.setup.local_steps):
            Z = X / u
            X = self.setup.stored(X - self.change(self.setup.gradient(Z), Z))
        return X


# Algorithms: each returns the models of all peers after `rounds` rounds, (n, d)


def isolated(s: Setup) -> Matrix:
    local, X = LocalSteps(s), s.x0
    for _ in range(s.rounds):
        X = local.take(X)
    return X


def all_reduce(s: Setup) -> Matrix:
    """x <- x - lr * direction(g), one model x for all; g = mean of all peers' gradients at x."""
    local, x = LocalSteps(s), s.x0.mean(axis=0)
    for _ in range(s.rounds * s.local_steps):
        g = s.gradient(np.tile(x, (s.n, 1))).mean(axis=0)
        x = x - local.change(g[None], x[None])[0]
    return np.tile(x, (s.n, 1))


def d_psgd(s: Setup) -> Matrix:
    """atc: X <- W^S (X - delta). cta: X <- W^S X - delta. X - delta is X after T local steps."""
    local, X, t = LocalSteps(s), s.x0, 0
    for _ in range(s.rounds):
        after = local.take(X)
        delta = X - after
        mixed = X if s.options["order"] == "cta" else after
        for _ in range(s.consensus_steps):
            mixed = s.mixing(t) @ mixed
            t += 1
        X = mixed - delta if s.options["order"] == "cta" else mixed
    return X


def choco_sgd(s: Setup) -> Matrix:
    """fresh: update the copies hat by C(X - hat), then mix. stale: mix, then update the copies.

    Push-sum: u is mixed like X but sent uncompressed, so its copies are u itself; the stale copies
    are 0 in the first step.
    """
    local, X, t = LocalSteps(s), s.x0, 0
    u, hat = np.ones((s.n, 1)), np.zeros_like(X)
    for _ in range(s.rounds):
        X = local.take(X, u)
        for _ in range(s.consensus_steps):
            step = s.gamma * (s.mixing(t) - np.eye(s.n))
            if s.options["variant"] == "fresh":
                hat = hat + s.compressed(X - hat)
                X = X + step @ hat
            else:
                X = X + step @ hat
                hat = hat + s.compressed(X - hat)
            if s.options.get("push_sum") and (t > 0 or s.options["variant"] == "fresh"):
                u = u + step @ u
            t += 1
    return X / u


def deep_squeeze(s: Setup) -> Matrix:
    """C(x + e) is sent, e <- x + e - C(x + e); with push-sum, u is sent uncompressed."""
    local, X, t = LocalSteps(s), s.x0, 0
    u, E = np.ones((s.n, 1)), np.zeros_like(X)
    for _ in range(s.rounds):
        X = local.take(X, u)
        for _ in range(s.consensus_steps):
            step = s.gamma * (s.mixing(t) - np.eye(s.n))
            sent = s.compressed(X + E)
            E = X + E - sent
            X = X + step @ sent
            if s.options.get("push_sum"):
                u = u + step @ u
            t += 1
    return X / u


def sgp(s: Setup) -> Matrix:
    """X <- W X, u <- W u; gradient and weight decay are taken at Z = X / u."""
    local, X, t = LocalSteps(s), s.x0, 0
    u = np.ones((s.n, 1))
    for _ in range(s.rounds):
        X = local.take(X, u)
        for _ in range(s.consensus_steps):
            X, u = s.mixing(t) @ X, s.mixing(t) @ u
            t += 1
    return X / u


def p2pl(s: Setup) -> Matrix:
    """T local steps, each plus eta_d D; then S times X + eps (A X - X), plus the consensus bias.

    D is the affinity term: the mean of the neighbors' models minus the own model, over T. Its
    weights are those of A without the diagonal, each row divided by its sum.
    """
    local, X, t = LocalSteps(s), p2pl_start(s), 0
    o: dict[str, Any] = {
        "eta_d": 1.0,
        "affinity_ref": "post",
        "epsilon": 1.0,
        "eta_b": 0.0,
        "bias": "anchored",
    }
    o |= s.options
    eps = np.diag(np.broadcast_to(np.asarray(o["epsilon"], float), s.n))
    D = np.zeros_like(X)
    for _ in range(s.rounds):
        for _ in range(s.local_steps):
            X = s.stored(X - local.change(s.gradient(X), X) + o["eta_d"] * D)
        after = X
        for _ in range(s.consensus_steps):
            A, before = s.mixing(t), X
            t += 1
            X = X + eps @ (A @ X - X)
            if o["bias"] == "printed":
                X = X + o["eta_b"] * after / s.consensus_steps
            else:
                X = (1 - o["eta_b"]) * X + o["eta_b"] * after
            D = np.zeros_like(X)
            for k in range(s.n):
                total = sum(A[k, j] for j in range(s.n) if j != k)
                for j in range(s.n):
                    if j != k and total:
                        ref = X[k] if o["affinity_ref"] == "post" else before[k]
                        D[k] += A[k, j] / total * (before[j] - ref) / s.local_steps
    return X


def p2pl_start(s: Setup) -> Matrix:
    """Return the models after `sync_rounds` rounds of max-norm synchronization.

    In each round every peer adopts the vector of largest norm among its neighbors' and its own.
    By default, n rounds are run, after which all connected peers hold the same vector.
    """
    X, linked = s.x0, s.weights[0] != 0
    rounds = s.options.get("sync_rounds")
    for _ in range(s.n if rounds is None else rounds):
        X = np.array([max(X[row], key=np.linalg.norm) for row in linked])
    return X


ALGORITHMS: dict[str, Callable[[Setup], Matrix]] = {
    "all-reduce": all_reduce,
    "choco-sgd": choco_sgd,
    "d-psgd": d_psgd,
    "deep-squeeze": deep_squeeze,
    "isolated": isolated,
    "p2pl": p2pl,
    "sgp": sgp,
}
COMPRESSORS: dict[str, Callable[..., Compressor]] = {
    "affine-8": lambda: affine_8,
    "identity": lambda: identity,
    "sign": lambda: sign,
    "top-k": top_k,
}
