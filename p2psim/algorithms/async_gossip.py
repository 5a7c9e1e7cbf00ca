"""Asynchronous gossip: a peer does not wait, it mixes with the models that have arrived."""

from collections.abc import Mapping
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

MAX_MIXES = 10_000  # of a peer in one round, for which it records one row only


@plugin("algorithm", "async-gossip", "after Lian et al. 2018 (AD-PSGD), without its atomic pairs")
class AsyncGossip(Algorithm):
    """Peer i, each time that its own T local steps end, at virtual time t:

        x_i <- x_i - sum of T steps lr dir_i
        x_i <- W_ii x_i + sum_j W_ij x_j^{(t)},  x_j^{(t)} the newest model of j that has arrived
        and x_i is sent to all neighbors

    Only messages that arrive before t count, not those that arrive at t. Until the first model of j
    arrives, x_i stands for x_j; the models of time 0 are sent at time 0. A round is `window`
    virtual seconds on every peer and contains the steps that end in it; a step that is unfinished
    at its end belongs to the next round. Epochs are those of the mean peer: at virtual time t all
    peers have the learning rate of the same epoch, and the run ends with the last epoch.

    Results do not depend on the real speed of a process: step times are known functions, so a peer
    computes which messages were sent to it before t, and waits for exactly these.

    Wire: 4d bytes to every neighbor after every T local steps, and once at the start.
    """

    requires = ("row-stochastic", "static")
    metrics: ClassVar[Mapping[str, str]] = {
        "staleness": "age of the neighbors' models when mixed, in virtual seconds, mean",
        "mixes": "times that the peer has mixed in the round",
    }
    time_dependent = True
    window: Positive = 1.0

    @property
    def round_seconds(self) -> float:
        return self.window

    def bind(self, setting: Setting) -> None:
        if not setting.timed:
            raise ValueError("the order of its messages needs a compute model; give [time] compute")
        self.epochs_per_second = setting.epochs / (setting.rounds * self.window)

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        self.rounds = self.mixed = 0
        ends = [self.end_of_steps(0.0, j, 0, oracle) for j in range(net.peers)]
        self.end = ends[net.rank]  # t, when this peer's current T local steps end
        # Every peer checks the fastest peer, so that all raise the same error.
        end, j = min(zip(ends, range(net.peers), strict=True))
        if self.window > MAX_MIXES * end:
            raise InputError(
                f"algorithm.window = {self.window:g}: peer {j} would mix about "
                f"{self.window / end:.3g} times in a round; give at most {MAX_MIXES * end:.3g} s"
            )
        # Of each neighbor j: when it sends its next message, and how many it has sent.
        self.next_sent_at = dict.fromkeys(net.senders(), 0.0)
        self.sent = dict.fromkeys(net.senders(), 0)
        # (arrives at, number, sent at, handle) of its messages that have not been mixed in.
        self.in_flight: dict[int, list[tuple[float, int, float, Handle]]]
        self.in_flight = {j: [] for j in net.senders()}
        # (number, sent at, message) of its newest message that has arrived.
        self.newest: dict[int, tuple[int, float, Message]] = {}
        self.sending: list[Handle] = []  # this peer's own messages of the round

    def end_of_steps(self, begin: float, j: int, number: int, oracle: Oracle) -> float:
        """Return the end of T local steps of peer j that begin at `begin`, after number * T others.

        InputError if they take no time, because a round could then hold any number of them.
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
        window_end = self.rounds * self.window
        ages: list[float] = []
        mixed_before = self.mixed
        if self.rounds == 1:
            self.sending.append(net.start_exchange(x, sources=[]))
        while self.end <= window_end:
            x = self.learn(x, oracle, net)
            x = self.mix(x, oracle, net, ages)
            self.sending.append(net.start_exchange(x, sources=[]))
            self.mixed += 1
            self.end = self.end_of_steps(self.end, net.rank, self.mixed, oracle)
        oracle.advance_clock(window_end)
        # A message carries its round's number: its receive must start in the round that sends it.
        for j in net.senders():
            self.receive(x, j, window_end, oracle, net)
        while self.sending:
            self.sending.pop().wait()
        self.staleness = float(np.mean(ages)) if ages else float("nan")
        self.mixes = self.mixed - mixed_before
        return x

    def learn(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """Return x after T local steps, which end at self.end."""
        # By the clock, so that fast and slow peers have the same learning rate at a time.
        epoch = net.now * self.epochs_per_second
        for step in range(oracle.local_steps):
            until = self.end if step == oracle.local_steps - 1 else net.now
            x = x - oracle.update(oracle.partial_grad(x, 1, 1, until), x, epoch)
        return x

    def mix(self, x: Vector, oracle: Oracle, net: Neighborhood, ages: list[float]) -> Vector:
        """Return W_ii x_i + sum_j W_ij x_j^{(t)}, in rank order; append the ages of x_j^{(t)}."""
        row, total = net.weights[net.rank].astype(x.dtype), np.zeros_like(x)
        for j in sorted([*self.next_sent_at, net.rank]):
            value = x
            if j != net.rank:
                # A message that is sent at t cannot arrive before t.
                self.receive(x, j, np.nextafter(self.end, 0), oracle, net)
                self.update_newest(j)
            if j in self.newest:
                _, sent_at, message = self.newest[j]
                value = message.value
                ages.append(self.end - sent_at)
            total += row[j] * value
        return total

    def receive(
        self, template: Vector, j: int, until: float, oracle: Oracle, net: Neighborhood
    ) -> None:
        """Receive all messages that neighbor j sends up to `until`; they may arrive later."""
        while self.next_sent_at[j] <= until:
            handle = net.start_exchange(template, to=[], sources=[j])
            sent_at, number = self.next_sent_at[j], self.sent[j]
            self.in_flight[j].append((handle.ready(), number, sent_at, handle))
            self.next_sent_at[j] = self.end_of_steps(sent_at, j, number, oracle)
            self.sent[j] += 1

    def update_newest(self, j: int) -> None:
        """Set the newest model of neighbor j, from the messages that arrive before self.end."""
        arrived = [entry for entry in self.in_flight[j] if entry[0] < self.end]
        self.in_flight[j] = [entry for entry in self.in_flight[j] if entry[0] >= self.end]
        for _, number, sent_at, handle in arrived:
            message = handle.wait()[j]
            # Where a link's latency varies in time, a message can overtake an older one.
            if j not in self.newest or number > self.newest[j][0]:
                self.newest[j] = number, sent_at, message
