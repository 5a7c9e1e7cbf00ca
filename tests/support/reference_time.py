"""What methods that look at the clock must compute: networks as matrices, clocks as arrays.

As in reference.py, for messages that take no time. `s.times[i, t]` are the seconds of peer i's
local step t; after the last column they begin again.
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
    """Mean gradients of the first `done` blocks of rows, summed, over `blocks`."""
    rows = len(s.b[i]) // blocks
    g = np.zeros_like(x)
    for block in range(done):
        A, b = (part[i][block * rows : (block + 1) * rows] for part in (s.A, s.b))
        g += A.T @ (A @ x - b) / rows / blocks
    return g


def fastest_k(s: Setup) -> Matrix:
    """full-sgd, k-sgd and lgc-sgd on any graph, by the equations in lgc_sgd.py."""
    return fastest_k_clocks(s)[0]


def fastest_k_clocks(s: Setup) -> tuple[Matrix, Matrix, Matrix]:
    """(models at the end, every peer's clock after each round, blocks finished in each round)."""
    n, W, o = s.n, s.weights[0], s.options
    kind, blocks, partial = o.get("method", "lgc-sgd"), o.get("blocks", 4), o.get("partial")
    blocks = blocks if kind == "lgc-sgd" else 1
    complete = bool((W != 0).all())
    near = [[j for j in range(n) if W[i, j] != 0] for i in range(n)]
    X, local, clock = s.x0.copy(), LocalSteps(s), np.zeros(n)
    old_slow, old_missed, slow_there = np.zeros_like(X), np.zeros_like(X), np.zeros(n)
    clocks, finished = [], []
    for t in range(s.rounds * s.local_steps):
        k = o.get("k", n) if t >= o.get("warmup_rounds", 0) * s.local_steps else n
        ready = clock + [step_time(s, i, t) for i in range(n)]
        fast = [sorted(near[i], key=lambda j: (ready[j], j))[:k] for i in range(n)]
        runs = np.array([any(i in fast[m] for m in range(n)) for i in range(n)])
        tau = np.array([max(ready[j] for j in fast[i]) for i in range(n)])
        if not complete:  # the models x_j set out at the beginning
            tau = np.maximum(tau, [max(clock[j] for j in near[i]) for i in range(n)])
        if kind == "lgc-sgd":
            tau = np.maximum(tau, slow_there)
        r = np.full(n, blocks)
        for i in range(n):
            if not runs[i]:
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
        ended = np.where(runs, ready, tau)
        slow_there = np.array([max([ended[j] for j in near[i] if j not in fast[i]], default=0)
                               for i in range(n)])  # fmt: skip
        clock = np.maximum(tau, ended)
        if (t + 1) % s.local_steps == 0:
            clocks.append(clock)
            finished.append(r)
    return X, np.array(clocks).T, np.array(finished).T


def async_gossip(s: Setup) -> Matrix:
    """All steps of all peers in the order of virtual time; what arrives at t is not there at t."""
    n, W, T = s.n, s.weights[0], s.local_steps
    window = s.options.get("window", 1.0)
    local = [LocalSteps(s) for _ in range(n)]
    X, steps = s.x0.copy(), np.zeros(n, int)
    sent: list[tuple[list[float], list[Matrix]]] = [([0.0], [s.x0[i].copy()]) for i in range(n)]

    def after(i: int, begin: float) -> float:
        for _ in range(T):
            begin += step_time(s, i, int(steps[i]))
            steps[i] += 1
        return begin

    ends = [after(i, 0.0) for i in range(n)]
    while min(ends) <= s.rounds * window:
        now = min(ends)
        moved = {}
        for i in [i for i in range(n) if ends[i] == now]:
            x = X[i : i + 1]
            for _ in range(T):
                g = s.A[i].T @ (s.A[i] @ x[0] - s.b[i]) / len(s.b[i])
                x = x - local[i].change(s.stored(g[None]), x)
            mixed = W[i, i] * x[0]
            for j in range(n):
                if j != i and W[i, j] != 0:
                    there = bisect.bisect_left(sent[j][0], now)
                    mixed = mixed + W[i, j] * (sent[j][1][there - 1] if there else x[0])
            moved[i] = mixed
        for i, mixed in moved.items():
            X[i] = mixed
            sent[i][0].append(now)
            sent[i][1].append(mixed)
            ends[i] = after(i, now)
    return X


ALGORITHMS: dict[str, Callable[[Setup], Matrix]] = {
    "full-sgd": fastest_k,
    "k-sgd": fastest_k,
    "lgc-sgd": fastest_k,
    "async-gossip": async_gossip,
}
