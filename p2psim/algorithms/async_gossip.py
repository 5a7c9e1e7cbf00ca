"""Asynchronous gossip: nobody waits, everybody mixes with what has arrived."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from p2psim.base import (
    Algorithm,
    Handle,
    Message,
    Neighborhood,
    Oracle,
    Positive,
    Setting,
    Vector,
)
from p2psim.errors import InputError
from p2psim.registry import plugin

MOST = 10_000  # times that a peer mixes in a round, of which its rows know one sum


@plugin("algorithm", "async-gossip", "after Lian et al. 2018 (AD-PSGD), without its atomic pairs")
class AsyncGossip(Algorithm):
    """Peer i, each time that its own T local steps end, at virtual time t:

        x_i <- x_i - sum of T steps lr dir_i
        x_i <- W_ii x_i + sum_j W_ij x_j^{(t)},  x_j^{(t)} the newest model of j that has arrived
        and x_i sets out to all neighbors

    Arrived means before t, not at t: what others do at the same moment is not seen. x_i stands for
    x_j until the first one has arrived; the models of time 0 set out at time 0. A round is `window`
    virtual seconds, the same on every peer, and holds the steps that end in it; one that goes on
    over the end counts in the next.

    No result depends on how fast a process really is: as step times are known beforehand, a peer
    knows what has been sent to it before t, and waits for that and for nothing else.

    Wire: 4d bytes to every neighbor each time, and once at the start.
    """

    requires = ("row-stochastic", "static")
    metrics: ClassVar[Mapping[str, str]] = {
        "staleness": "age of the neighbors' models when mixed, in virtual seconds, mean",
        "mixes": "times that the peer has mixed in the round",
    }
    time_dependent = True
    window: Positive = 1.0

    def bind(self, setting: Setting) -> None:
        if not setting.timed:
            raise ValueError("who has sent what by when needs a compute model; give [time] compute")

    def duration(
        self, setting: Setting, rounds: int, step: Callable[[int], Sequence[float]]
    ) -> float:
        return rounds * self.window

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        self.rounds = self.mixed = 0
        ends = [self.after(0.0, j, 0, oracle) for j in range(net.peers)]
        self.end = ends[net.rank]  # of the T steps that this peer is in
        end, j = min(zip(ends, range(net.peers), strict=True))
        if self.window > MOST * end:
            raise InputError(
                f"algorithm.window = {self.window:g}: peer {j} would mix about "
                f"{self.window / end:.3g} times in a round; give at most {MOST * end:.3g} s"
            )
        # Of each neighbor: when its next message sets out and how many have, what is on its way
        # (there at, number, sent at, model), and the newest that has arrived (number, sent at, it).
        self.next = dict.fromkeys(net.senders(), 0.0)
        self.count = dict.fromkeys(net.senders(), 0)
        self.coming: dict[int, list[tuple[float, int, float, Handle]]]
        self.coming = {j: [] for j in net.senders()}
        self.newest: dict[int, tuple[int, float, Message]] = {}
        self.leaving: list[Handle] = []

    def after(self, begin: float, j: int, number: int, oracle: Oracle) -> float:
        """When peer j's T local steps that begin then end: the `number`-th of such, from 0.

        InputError where they take no time, since a round could hold any number of them.
        """
        first, end = number * oracle.local_steps, begin
        for step in range(first, first + oracle.local_steps):
            end += oracle.seconds(j, step)
        if end <= begin:
            raise InputError(
                f"time.compute: local step {first} of peer {j} takes no virtual time, with which "
                "a round of async-gossip would never end; give steps that take more than 0 s"
            )
        return end

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        self.rounds += 1
        window = self.rounds * self.window
        ages: list[float] = []
        before = self.mixed
        if self.rounds == 1:
            self.leaving.append(net.start_exchange(x, sources=[]))
        while self.end <= window:
            x = self.learn(x, oracle, net)
            x = self.mix(x, oracle, net, ages)
            self.leaving.append(net.start_exchange(x, sources=[]))
            self.mixed += 1
            self.end = self.after(self.end, net.rank, self.mixed, oracle)
        oracle.advance_clock(window)
        for j in net.senders():
            self.receive(x, j, window, oracle, net)
        while self.leaving:
            self.leaving.pop().wait()
        self.staleness = float(np.mean(ages)) if ages else float("nan")
        self.mixes = self.mixed - before
        return x

    def learn(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """T local steps, which end at self.end."""
        for step in range(oracle.local_steps):
            until = self.end if step == oracle.local_steps - 1 else net.now
            x = x - oracle.update(oracle.partial_grad(x, 1, 1, until), x)
        return x

    def mix(self, x: Vector, oracle: Oracle, net: Neighborhood, ages: list[float]) -> Vector:
        """sum_j W_ij x_j of what has arrived, in rank order."""
        row, mixture = net.weights[net.rank].astype(x.dtype), np.zeros_like(x)
        for j in sorted([*self.next, net.rank]):
            value = x
            if j != net.rank:
                # What sets out now cannot be there before now.
                self.receive(x, j, np.nextafter(self.end, 0), oracle, net)
                self.take(j)
            if j in self.newest:
                _, sent_at, message = self.newest[j]
                value = message.value
                ages.append(self.end - sent_at)
            mixture += row[j] * value
        return mixture

    def receive(
        self, like: Vector, j: int, until: float, oracle: Oracle, net: Neighborhood
    ) -> None:
        """Have what neighbor j has sent up to this moment; it may not be there yet."""
        while self.next[j] <= until:
            handle = net.start_exchange(like, to=[], sources=[j])
            self.coming[j].append((handle.ready(), self.count[j], self.next[j], handle))
            self.next[j] = self.after(self.next[j], j, self.count[j], oracle)
            self.count[j] += 1

    def take(self, j: int) -> None:
        """The newest of what has arrived from neighbor j before self.end."""
        arrived = [entry for entry in self.coming[j] if entry[0] < self.end]
        self.coming[j] = [entry for entry in self.coming[j] if entry[0] >= self.end]
        for _, number, sent_at, handle in arrived:
            message = handle.wait()[j]
            if j not in self.newest or number > self.newest[j][0]:
                self.newest[j] = number, sent_at, message
