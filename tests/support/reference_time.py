"""Reference implementations of the algorithms that depend on virtual time.

The notation is that of reference.py; clocks are arrays, and messages take no time. `s.times[i, t]`
is the duration of local step t of peer i in seconds; after the last column it starts again.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import numpy as np

from tests.support.reference import LocalSteps, Matrix, Setup


def step_time(s: Setup, i: int, t: int) -> float:
    return float(s.times[i, t % s.times.shape[1]])


def partial_gradient(s: Setup, i: int, x: Matrix, done: int, blocks: int) -> Matrix:
    """Return (1 / blocks) sum of the mean gradients of the first `done` blocks of rows."""
    rows = len(s.b[i]) // blocks
    g = np.zeros_like(x)
    for block in range(done):
        A, b = (part[i][block * rows : (block + 1) * rows] for part in (s.A, s.b))
        g += A.T @ (A @ x - b) / rows / blocks
    return g


def fastest_k(s: Setup) -> Matrix:
    """Equations of lgc_sgd.py, for full-sgd, k-sgd and lgc-sgd on any graph."""
    return fastest_k_clocks(s)[0]


def fastest_k_clocks(s: Setup) -> tuple[Matrix, Matrix, Matrix]:
    """Return the final models (n, d), clocks after each round and blocks of each round (n, rounds).

    The blocks are those that a peer finished in the last local step of the round.
    """
    n, W, o = s.n, s.weights[0], s.options
    kind, blocks, partial = o.get("method", "lgc-sgd"), o.get("blocks", 4), o.get("partial")
    blocks = blocks if kind == "lgc-sgd" else 1
    complete = bool((W != 0).all())
    senders = [[j for j in range(n) if W[i, j] != 0] for i in range(n)]  # own rank included
    X, local, clock = s.x0.copy(), LocalSteps(s), np.zeros(n)
    old_slow, old_missed, slow_arrival = np.zeros_like(X), np.zeros_like(X), np.zeros(n)
    clocks, finished = [], []
    for t in range(s.rounds * s.local_steps):
        k = o.get("k", n) if t >= o.get("warmup_rounds", 0) * s.local_steps else n
        step_end = clock + [step_time(s, i, t) for i in range(n)]
        fast = [sorted(senders[i], key=lambda j: (step_end[j], j))[:k] for i in range(n)]
        # Peers among the k fastest of at least one peer complete their step.
        completes = np.array([any(i in fast[m] for m in range(n)) for i in range(n)])
        tau = np.array([max(step_end[j] for j in fast[i]) for i in range(n)])
        if not complete:  # the models x_j are sent at the beginning of the step
            tau = np.maximum(tau, [max(clock[j] for j in senders[i]) for i in range(n)])
        if kind == "lgc-sgd":
            tau = np.maximum(tau, slow_arrival)
        r = np.full(n, blocks)
        for i in range(n):
            if not completes[i]:
                share = (tau[i] - clock[i]) / step_time(s, i, t)
                r[i] = partial if isinstance(partial, int) else blocks
                if partial == "timing":
                    r[i] = min(blocks, math.floor(blocks * share))
        G = np.array([partial_gradient(s, i, X[i], r[i], blocks) for i in range(n)])
        if not o.get("scaling", True):
            G *= (blocks / np.maximum(r, 1))[:, None]
        chosen = np.array([[W[i, j] * (j in fast[i]) for j in range(n)] for i in range(n)])
        omega = chosen.sum(axis=1, keepdims=True)
        mean = chosen @ G / omega
        slow, missed = (W - chosen) @ G, (1 - omega) * mean
        e = old_slow - old_missed if kind == "lgc-sgd" else 0.0
        mixed = X if complete else W @ X
        X = mixed - local.change(mean + e, X)
        old_slow, old_missed = slow, missed
        end = np.where(completes, step_end, tau)
        slow_arrival = np.array([max([end[j] for j in senders[i] if j not in fast[i]], default=0)
                                 for i in range(n)])  # fmt: skip
        clock = np.maximum(tau, end)
        if (t + 1) % s.local_steps == 0:
            clocks.append(clock)
            finished.append(r)
    return X, np.array(clocks).T, np.array(finished).T


def async_gossip(s: Setup) -> Matrix:
    """Run the steps of all peers in the order of virtual time.

    A message that arrives at time t is mixed only by steps that end after t.
    """
    n, W, T = s.n, s.weights[0], s.local_steps
    window = s.options.get("window", 1.0)
    local = [LocalSteps(s) for _ in range(n)]
    X, steps = s.x0.copy(), np.zeros(n, int)
    sent: list[tuple[list[float], list[Matrix]]] = [([0.0], [s.x0[i].copy()]) for i in range(n)]

    def end_of_steps(i: int, begin: float) -> float:
        for _ in range(T):
            begin += step_time(s, i, int(steps[i]))
            steps[i] += 1
        return begin

    ends = [end_of_steps(i, 0.0) for i in range(n)]
    while min(ends) <= s.rounds * window:
        now = min(ends)
        models = {}
        for i in [i for i in range(n) if ends[i] == now]:
            x = X[i : i + 1]
            for _ in range(T):
                g = s.A[i].T @ (s.A[i] @ x[0] - s.b[i]) / len(s.b[i])
                x = x - local[i].change(s.stored(g[None]), x)
            mixed = W[i, i] * x[0]
            for j in range(n):
                if j != i and W[i, j] != 0:
                    arrived = bisect.bisect_left(sent[j][0], now)
                    mixed = mixed + W[i, j] * (sent[j][1][arrived - 1] if arrived else x[0])
            models[i] = mixed
        for i, mixed in models.items():
            X[i] = mixed
            sent[i][0].append(now)
            sent[i][1].append(mixed)
            ends[i] = end_of_steps(i, now)
    return X


ALGORITHMS: dict[str, Callable[[Setup], Matrix]] = {
    "full-sgd": fastest_k,
    "k-sgd": fastest_k,
    "lgc-sgd": fastest_k,
    "async-gossip": async_gossip,
}
