"""Base of full-sgd, k-sgd and lgc-sgd: an iteration waits for the k fastest gradients only.

The equations and their numbers are those of Xu 2021, in the form of lgc_sgd.py, with no server.
Iteration t of peer i follows them in this order:

    race                 S_i, and the peers j with i in S_j
    compute              g_i of r_i finished blocks                                             (6)
    slow_sum             sum_{j not in S_i} W_ij g_j of iteration t - 1, the first term of      (7)
    mean_of_fastest      g~_i = (1 / omega_i) sum_{j in S_i} W_ij g_j,
                         omega_i = sum_{j in S_i} W_ij                                          (5)
    estimate             g^_i, which each method defines
    iterate              x_i <- sum_j W_ij x_j - lr dir(g^_i)
"""

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
    """Outcome of one iteration's race, as far as peer i needs it."""

    fastest: list[int]  # S_i, in rank order
    waiting: list[int]  # peers j != i with i in S_j, in rank order

    def needs(self, rank: int) -> bool:
        """Return True if some peer, possibly `rank` itself, waits for all blocks of `rank`."""
        return rank in self.fastest or bool(self.waiting)


class Gradients(NamedTuple):
    """Gradients of one iteration at peer i: its own, and those that are on the way to it."""

    own: Message  # g_i
    r: int  # r_i, the blocks that g_i contains
    fast: Handle  # g_j of the neighbors j in S_i
    slow: Handle | None  # g_j of the neighbors j not in S_i, which count in iteration t + 1


def first_k(arrivals: Mapping[int, float], k: int) -> list[tuple[float, int]]:
    """Return the k earliest (time, rank), ties to the lower rank; all if they are fewer than k."""
    return sorted((time, rank) for rank, time in arrivals.items())[:k]


class FastestK(Algorithm):
    """Base class: T iterations a round, all in `local`; lgc_sgd.py has the equations.

    A subclass defines its parameters, g^_i by `estimate` and r_i by `finished_blocks`.
    """

    requires = ("doubly-stochastic", "symmetric", "static")
    metrics: ClassVar[Mapping[str, str]] = {
        "blocks_done": "blocks of its minibatch that the peer finished, mean over the local steps",
        "among_fastest": "share of the local steps in which the peer was in its own S_i",
    }
    keeps_slow = False  # True: g_j of j not in S_i is sent too, and counts in iteration t + 1
    compressor: Compressor
    k: int | None  # None: all peers
    warmup_rounds = 0
    blocks = 1  # s
    scaling = True

    @property
    def time_dependent(self) -> bool:
        return self.k is not None

    def bind(self, setting: Setting) -> None:
        # Without latency on a complete graph all clocks stay equal and every peer can compute the
        # race from the step times alone.
        self.equal_clocks = setting.instant and bool(setting.linked.all())
        if self.k and self.k > setting.peers:
            raise ValueError(f"k = {self.k}: give at most {setting.peers}, the number of peers")
        if self.k and self.k < setting.peers and not setting.timed:
            raise ValueError(
                f"k = {self.k}: the order of the peers needs a compute model; give [time] compute"
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
        if not self.equal_clocks:
            return None  # clocks then differ: only a run determines who waits for whom
        now, warmup = 0.0, self.warmup_rounds * T
        for t in range(rounds * T):
            k = self.k if self.k and t >= warmup else n
            now += first_k(dict(enumerate(step(t))), k)[-1][0]  # X_(k), the k-th smallest
        return now

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        sizes = (net.weights != 0).sum(axis=1)  # of the neighborhoods, the peer itself included
        self.complete, self.largest = bool((sizes == net.peers).all()), int(sizes.max())
        self.rounds = 0
        self.slow_gradients: Handle | None = None  # g_j of j not in S_i, of the iteration before
        self.own_slow = np.zeros_like(x)  # W_ii g_i if i was not in S_i in that iteration, or 0
        self.scratch = Scratch()
        self.blank = self.message(self.own_slow, 0, net)  # template of what this peer receives

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        self.blocks_done = self.among_fastest = 0.0
        self.rounds += 1
        for _ in range(oracle.local_steps):
            x = self.iterate(x, oracle, net)
        return x

    def iterate(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """Return x_i of iteration t + 1: sum_j W_ij x_j - lr dir(g^_i)."""
        X = oracle.seconds(net.rank, oracle.step_count)
        # On the complete graph no models are sent, as in the paper: all x_i are equal there unless
        # latencies let the peers choose different S_i.
        models = None if self.complete else net.start_exchange(x)
        race = self.race(net.now + X, oracle, net)
        if race.needs(net.rank):
            gradients = self.compute_all_blocks(x, X, race, oracle, net)
        else:
            gradients = self.compute_until_tau(x, X, race, models, oracle, net)
        slow, self.slow_gradients = self.slow_sum(net), gradients.slow
        g_tilde, omega = self.mean_of_fastest(gradients, race, net)
        self.keep_own_slow(gradients, race, net)
        self.blocks_done += gradients.r / oracle.local_steps
        self.among_fastest += (net.rank in race.fastest) / oracle.local_steps
        g_hat = self.estimate(g_tilde, omega, slow)
        mixed = models.mix() if models else x
        return mixed - oracle.update(g_hat, x)

    def estimate(self, g: Vector, omega: float, slow: Vector) -> Vector:
        """Return g^_i, from g = g~_i, omega_i and the `slow_sum` of the iteration before.

        Both vectors may be overwritten.
        """
        return g

    def finished_blocks(self, spent: float, X: float, oracle: Oracle) -> int:
        """Return r_i of a peer that stops after `spent` of the X seconds of its local step.

        0 by default: a gradient that is discarded is not computed.
        """
        return 0

    # The race: S_i, computed before any gradient, since step times and links are known functions.

    def race(self, ready: float, oracle: Oracle, net: Neighborhood) -> Race:
        """Return S_i and the peers that wait for g_i, which is complete at virtual time `ready`."""
        k = self.k if self.k and self.rounds > self.warmup_rounds else net.peers
        if k >= self.largest:
            return Race(sorted([*net.senders(), net.rank]), list(net.receivers()))
        if self.equal_clocks:
            return self.race_by_step_times(k, oracle, net)
        return self.race_by_arrivals(k, ready, net)

    def race_by_step_times(self, k: int, oracle: Oracle, net: Neighborhood) -> Race:
        """Return the race if all clocks are equal: one S for all peers, known without exchange."""
        times = {j: oracle.seconds(j, oracle.step_count) for j in range(net.peers)}
        fastest = sorted(j for _, j in first_k(times, k))
        return Race(fastest, list(net.receivers()) if net.rank in fastest else [])

    def race_by_arrivals(self, k: int, ready: float, net: Neighborhood) -> Race:
        """Return the race by the arrival times of gradients at each peer.

        The times are simulator knowledge: exchanging them costs neither bytes nor virtual time.
        """
        times = {j: float(v[0]) for j, v in net.simulator_exchange(np.array([ready])).items()}

        def fastest(i: int) -> list[tuple[float, int]]:
            arrivals = {j: net.arrival_time(j, i, times[j], self.blank) for j in net.senders(i)}
            return first_k({**arrivals, i: times[i]}, k)

        own = fastest(net.rank)
        # The k-th (time, rank) at receiver j decides whether this peer is in S_j. On an incomplete
        # graph only j itself has the clocks of all its neighbors, so every peer sends its pair.
        if self.complete:
            last = {j: fastest(j)[-1] for j in net.receivers()}
        else:
            pairs = net.simulator_exchange(np.array(own[-1], dtype=float))
            last = {j: (float(pairs[j][0]), int(pairs[j][1])) for j in net.receivers()}
        arrival = {j: (net.arrival_time(net.rank, j, ready, self.blank), net.rank) for j in last}
        return Race(sorted(j for _, j in own), [j for j in last if arrival[j] <= last[j]])

    # Gradients: which peer computes and sends what, equation (6).

    def compute_all_blocks(
        self, x: Vector, X: float, race: Race, oracle: Oracle, net: Neighborhood
    ) -> Gradients:
        """Compute g_i with r_i = s, because a peer waits for it, and send it to those that need it.

        Without `keeps_slow` only the peers that wait for g_i need it.
        """
        slow = self.slow_senders(race, net)
        g = self.compute(x, self.blocks, net.now + X, oracle, net)
        to = net.receivers() if self.keeps_slow else race.waiting
        fast_messages = net.start_exchange(g, to, self.fast_senders(race, net))
        # Fast and slow gradients have a handle each: the slow ones are received an iteration later.
        slow_messages = net.start_exchange(self.blank, [], slow) if slow else None
        return Gradients(g, self.blocks, fast_messages, slow_messages)

    def compute_until_tau(
        self,
        x: Vector,
        X: float,
        race: Race,
        models: Handle | None,
        oracle: Oracle,
        net: Neighborhood,
    ) -> Gradients:
        """Compute g_i until tau, when all that peer i waits for has arrived; r_i <= s blocks."""
        start = net.now
        fast_messages = net.start_exchange(self.blank, [], self.fast_senders(race, net))
        awaited = [handle for handle in (models, self.slow_gradients, fast_messages) if handle]
        tau = max(handle.ready() for handle in awaited)
        r = self.finished_blocks(tau - start, X, oracle)
        g = self.compute(x, r, tau, oracle, net)
        slow_messages = None
        if self.keeps_slow:
            slow_messages = net.start_exchange(g, net.receivers(), self.slow_senders(race, net))
        return Gradients(g, r, fast_messages, slow_messages)

    def fast_senders(self, race: Race, net: Neighborhood) -> list[int]:
        """Return the neighbors in S_i, in rank order."""
        return [j for j in race.fastest if j != net.rank]

    def slow_senders(self, race: Race, net: Neighborhood) -> list[int]:
        """Return the neighbors not in S_i whose gradients count, in rank order."""
        return [j for j in net.senders() if j not in race.fastest] if self.keeps_slow else []

    def compute(
        self, x: Vector, r: int, ready: float, oracle: Oracle, net: Neighborhood
    ) -> Message:
        """Return g_i = (1/s) sum of the mean gradients of r blocks (6), complete at `ready`.

        With scaling = false the factor is 1/r.
        """
        g = oracle.partial_grad(x, r, self.blocks, ready)
        return self.message(g if self.scaling or not r else g * (self.blocks / r), r, net)

    def message(self, g: Vector, r: int, net: Neighborhood) -> Message:
        """Return the message C(g_i); r_i follows uncompressed where it may be below s."""
        raw_tail = int(self.keeps_slow)
        entries = self.scratch("entries", g.size + raw_tail, g.dtype)
        entries[: g.size], entries[g.size :] = g, r
        return net.message(entries, self.compressor, raw_tail)

    # Weighted sums over S_i and over its complement, equations (5) and (7).

    def slow_sum(self, net: Neighborhood) -> Vector:
        """Return sum_{j not in S_i} W_ij g_j of the iteration before, shape (d,).

        Wait for those of its messages that have not arrived yet.
        """
        messages = self.slow_gradients.wait() if self.slow_gradients else {}
        total: Vector = self.scratch("slow", self.own_slow.size, self.own_slow.dtype)
        self.weighted_sum(messages, net, total)
        return np.add(total, self.own_slow, out=total)

    def mean_of_fastest(
        self, gradients: Gradients, race: Race, net: Neighborhood
    ) -> tuple[Vector, float]:
        """Return g~_i (5), shape (d,), and omega_i; wait for the gradients of S_i."""
        own = {net.rank: gradients.own} if net.rank in race.fastest else {}
        total: Vector = self.scratch("fast", self.own_slow.size, self.own_slow.dtype)
        omega = self.weighted_sum({**gradients.fast.wait(), **own}, net, total)
        return np.divide(total, total.dtype.type(omega), out=total), omega

    def keep_own_slow(self, gradients: Gradients, race: Race, net: Neighborhood) -> None:
        """Keep W_ii g_i for the next iteration's `slow_sum` if i is not in S_i, else 0."""
        is_slow = self.keeps_slow and net.rank not in race.fastest
        self.weighted_sum({net.rank: gradients.own} if is_slow else {}, net, self.own_slow)

    def weighted_sum(
        self, messages: Mapping[int, Message], net: Neighborhood, out: Vector
    ) -> float:
        """Write sum_j W_ij g_j over these messages into `out`, in rank order; return sum_j W_ij."""
        row, omega = net.weights[net.rank], 0.0
        term = self.scratch("term", out.size, out.dtype)
        out[:] = 0
        for j in sorted(messages):
            g = messages[j].value[: out.size]  # without r_j
            out += np.multiply(g, out.dtype.type(row[j]), out=term)
            omega += float(row[j])
        return omega
