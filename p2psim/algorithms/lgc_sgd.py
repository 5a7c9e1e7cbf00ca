"""LGC-SGD: gradients of stragglers are applied one iteration late (live gradient compensation)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from p2psim.algorithms.fastest_k import FastestK
from p2psim.base import Compressor, Count, Natural, Neighborhood, Oracle, Setting, Vector
from p2psim.registry import plugin


@plugin("algorithm", "lgc-sgd", "Xu 2021, Algorithm 1, equations (5)-(7)")
class LGCSGD(FastestK):
    """Iteration t on the complete graph (n peers, the same x on all; the paper's server left out):

        g_i = (1/s) sum of the mean gradients at x_t of the first r_i of s blocks                (6)
        g~_t = (1/k) sum_{i in S_t} g_i,  S_t the k fastest                                      (5)
        e_t = (1/n) sum_{i not in S_t} g_i - ((n - k) / n) g~_t,  e_{-1} = 0                     (7)
        g^_t = g~_t + e_{t-1},  x_{t+1} = x_t - lr dir(g^_t)

    On any other graph (this project's extension): S_i are the k peers of i's neighborhood, i
    included, whose gradients arrive first, omega_i = sum_{j in S_i} W_ij, and

        g~_i = (1 / omega_i) sum_{j in S_i} W_ij g_j
        e_i = sum_{j not in S_i} W_ij g_j - (1 - omega_i) g~_i
        x_i <- sum_j W_ij x_j - lr dir(g~_i + e_i of the iteration before)

    Peer i ends its iteration at tau, when the gradients of S_i, the models x_j and the slow
    gradients of the iteration before have arrived. If i is in no S_j, it computes until tau and
    stops. Of its step of X seconds it then has r_i = min(s, floor(s (tau - start) / X)) blocks
    (partial = "timing"), s blocks ("finish"), 1 to s at random ("random"), or the given number.
    Unfinished blocks are not computed. scaling = false divides by r_i instead of s in (6). In the
    first `warmup_rounds` rounds S_i is the whole neighborhood.

    Wire: C(g_i) and r (4d + 4 bytes) to every neighbor, 4d more where the graph is not complete.
    """

    keeps_slow = True
    k: Count
    blocks: Count = 4
    partial: Literal["timing", "finish", "random"] | Natural = "finish"
    scaling: bool = True
    warmup_rounds: Natural = 0
    compressor: Compressor = "identity"  # type: ignore[assignment]

    def bind(self, setting: Setting) -> None:
        super().bind(setting)
        if isinstance(self.partial, int) and self.partial > self.blocks:
            raise ValueError(f"partial = {self.partial}: give at most blocks = {self.blocks}")

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        super().start(x, oracle, net)
        self.correction = np.zeros_like(x)  # (1 - omega_i) g~_i of the iteration before

    def estimate(self, g: Vector, omega: float, slow: Vector) -> Vector:
        e = np.subtract(slow, self.correction, out=slow)  # (7), of the iteration before
        np.multiply(g, 1 - omega, out=self.correction)
        return np.add(g, e, out=g)

    def finished_blocks(self, spent: float, X: float, oracle: Oracle) -> int:
        if self.partial == "timing":
            return min(self.blocks, math.floor(self.blocks * spent / X))
        if self.partial == "random":
            return 1 + int(oracle.rng("blocks").integers(self.blocks))
        return self.blocks if self.partial == "finish" else self.partial
