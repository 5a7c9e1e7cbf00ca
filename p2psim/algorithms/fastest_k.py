"""Iterations that wait for the fastest alone: who they are, and how far the others come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from p2psim.base import (
    Algorithm,
    Compressor,
    Handle,
    Message,
    Neighborhood,
    Oracle,
    Setting,
    Vector,
)
from p2psim.vectors import Scratch


class Race(NamedTuple):
    """One iteration as a peer sees it."""

    fast: list[int]  # S_i, in rank order
    waiting: list[int]  # peers that have this one in theirs, itself left out

    def finishes(self, rank: int) -> bool:
        """Whether anybody waits for this peer, maybe itself."""
        return rank in self.fast or bool(self.waiting)


def first_k(arrivals: Mapping[int, float], k: int) -> list[tuple[float, int]]:
    """(when, rank) of the k that are there first, ties to the lower rank; all if they are fewer."""
    return sorted((at, j) for j, at in arrivals.items())[:k]


class FastestK(Algorithm):
    """T iterations a round, all of them here; see lgc_sgd.py for what an iteration is.

    A method says what its parameters are and what it makes of g~_i: `estimate`.
    """

    requires = ("doubly-stochastic", "symmetric", "static")
    metrics: ClassVar[Mapping[str, str]] = {
        "blocks_done": "blocks of its minibatch that the peer finished, mean over the local steps",
        "among_fastest": "share of the local steps in which the peer was in its own S_i",
    }
    keeps_slow = False  # whether g_j of j not in S_i travels, and counts an iteration later
    compressor: Compressor
    k: int | None  # None: all
    warmup_rounds = 0
    blocks = 1
    scaling = True

    @property
    def time_dependent(self) -> bool:
        return self.k is not None

    def bind(self, setting: Setting) -> None:
        # Then all clocks show the same, and everybody knows all about everybody.
        self.together = setting.instant and bool(setting.linked.all())
        if self.k and self.k > setting.peers:
            raise ValueError(f"k = {self.k}: give at most {setting.peers}, the number of peers")
        if self.k and self.k < setting.peers and not setting.timed:
            raise ValueError(
                f"k = {self.k}: who is among the fastest needs a compute model; give [time] compute"
            )
        for size in sorted(set(setting.batch_sizes)):
            if size % self.blocks:
                raise ValueError(
                    f"blocks = {self.blocks}: does not divide a minibatch of {size} samples; "
                    "choose another data.batch_size or other blocks"
                )

    def duration(
        self, setting: Setting, rounds: int, step: Callable[[int], Sequence[float]]
    ) -> float | None:
        n, T = setting.peers, setting.local_steps
        if not self.together:
            return None  # then it depends on who waited for whom
        now, warm = 0.0, self.warmup_rounds * T
        for t in range(rounds * T):
            k = self.k if self.k and t >= warm else n
            now += first_k(dict(enumerate(step(t))), k)[-1][0]
        return now

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        neighbors = (net.weights != 0).sum(axis=1)
        self.complete, self.most = bool((neighbors == net.peers).all()), int(neighbors.max())
        self.rounds = 0
        self.late: Handle | None = None  # what slow neighbors had in the iteration before
        self.slow = np.zeros_like(x)  # and this peer, times W_ii, where it was slow
        self.scratch = Scratch()
        self.blank = self.message(self.slow, 0, net)  # tells what kind of message is received

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        self.blocks_done = self.among_fastest = 0.0
        self.rounds += 1
        for _ in range(oracle.local_steps):
            x = self.iterate(x, oracle, net)
        return x

    def iterate(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """One iteration: race, gradients, update."""
        X, began = oracle.seconds(net.rank, oracle.step_count), net.now
        models = None if self.complete else net.start_exchange(x)
        race = self.race(began + X, oracle, net)
        fast = [j for j in race.fast if j != net.rank]
        slow = [j for j in net.senders() if j not in fast] if self.keeps_slow else []
        to = net.receivers() if self.keeps_slow else race.waiting
        if race.finishes(net.rank):
            r = self.blocks
            g = self.computed(x, r, began + X, oracle, net)
            arriving = net.start_exchange(g, to, fast)
            late = net.start_exchange(self.blank, [], slow) if slow else None
        else:
            arriving = net.start_exchange(self.blank, [], fast)
            needed = [handle for handle in (models, self.late, arriving) if handle]
            tau = max(handle.ready() for handle in needed)
            r = self.finished(tau - began, X, oracle)
            g = self.computed(x, r, tau, oracle, net)
            late = net.start_exchange(g, to, slow) if self.keeps_slow else None
        before, self.late = self.collect(net), late
        mine = {net.rank: g} if net.rank in race.fast else {}
        total = self.scratch("total", x.size, x.dtype)
        omega = self.total({**arriving.wait(), **mine}, net, total)
        self.total({net.rank: g} if self.keeps_slow and not mine else {}, net, self.slow)
        direction = self.estimate(np.divide(total, x.dtype.type(omega), out=total), omega, before)
        self.blocks_done += r / oracle.local_steps
        self.among_fastest += bool(mine) / oracle.local_steps
        return (models.mix() if models else x) - oracle.update(direction, x)

    def estimate(self, g: Vector, omega: float, before: Vector) -> Vector:
        """g^_i from g~_i, omega_i and sum_{j not in S_i} W_ij g_j of the iteration before.

        Both vectors may be overwritten.
        """
        return g

    def finished(self, spent: float, X: float, oracle: Oracle) -> int:
        """Blocks that this peer has when it stops after `spent` of X seconds."""
        return 0

    def race(self, finish: float, oracle: Oracle, net: Neighborhood) -> Race:
        """Who is fastest, if every peer's gradient is ready when it says."""
        k = self.k if self.k and self.rounds > self.warmup_rounds else net.peers
        if k >= self.most:
            return Race(sorted([*net.senders(), net.rank]), list(net.receivers()))
        if self.together:
            step, everyone = oracle.step_count, range(net.peers)
            takes = {j: oracle.seconds(j, step) for j in everyone}
            fast = sorted(j for _, j in first_k(takes, k))
            return Race(fast, list(net.receivers()) if net.rank in fast else [])
        ready = {j: float(v[0]) for j, v in net.simulator_exchange(np.array([finish])).items()}

        def first(i: int) -> list[tuple[float, int]]:
            there = {j: net.arrival_time(j, i, ready[j], self.blank) for j in net.senders(i)}
            return first_k({**there, i: ready[i]}, k)

        own = first(net.rank)
        if self.complete:  # everybody knows of everybody
            last = {i: first(i)[-1] for i in net.receivers()}
        else:
            told = net.simulator_exchange(np.array(own[-1], dtype=float))
            last = {i: (float(told[i][0]), int(told[i][1])) for i in net.receivers()}
        mine = {i: (net.arrival_time(net.rank, i, finish, self.blank), net.rank) for i in last}
        return Race(sorted(j for _, j in own), [i for i in last if mine[i] <= last[i]])

    def computed(
        self, x: Vector, r: int, until: float, oracle: Oracle, net: Neighborhood
    ) -> Message:
        """g_i of r finished blocks."""
        g = oracle.partial_grad(x, r, self.blocks, until)
        return self.message(g if self.scaling or not r else g * (self.blocks / r), r, net)

    def message(self, g: Vector, r: int, net: Neighborhood) -> Message:
        """g_i, and where r may be below s also r."""
        plain = int(self.keeps_slow)
        sent = self.scratch("sent", g.size + plain, g.dtype)
        sent[: g.size], sent[g.size :] = g, r
        return net.message(sent, self.compressor, plain)

    def gradient(self, m: Message) -> Vector:
        """g_j of a message."""
        return m.value[: self.slow.size]

    def collect(self, net: Neighborhood) -> Vector:
        """sum_{j not in S_i} W_ij g_j of the iteration before, which must be there now."""
        messages = self.late.wait() if self.late else {}
        before: Vector = self.scratch("before", self.slow.size, self.slow.dtype)
        self.total(messages, net, before)
        return np.add(before, self.slow, out=before)

    def total(self, messages: Mapping[int, Message], net: Neighborhood, out: Vector) -> float:
        """out <- sum_j W_ij g_j over these messages, in rank order; returns sum_j W_ij."""
        row, omega = net.weights[net.rank], 0.0
        term = self.scratch("term", out.size, out.dtype)
        out[:] = 0
        for j in sorted(messages):
            out += np.multiply(self.gradient(messages[j]), out.dtype.type(row[j]), out=term)
            omega += float(row[j])
        return omega
