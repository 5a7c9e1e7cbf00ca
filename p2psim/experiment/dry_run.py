"""One peer's round without network, data or torch: what an algorithm sends, keeps and waits for.

`p2psim plan` counts with it, so that any algorithm's traffic is known before a run, without a
second account of its bytes. Neighbors are taken to send what this peer sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from p2psim.base import Compressor, Handle, Message, Ranks, Shape, Vector
from p2psim.experiment.scenario import Scenario
from p2psim.network.clock import Clock
from p2psim.network.messages import Packet, Pool, pack
from p2psim.network.neighborhood import LocalView, block_sizes, group_size
from p2psim.rng import RandomStream, generator


class EchoHandle:
    """A handle to messages that have come back as they left."""

    def __init__(self, net: DryRunNeighborhood, messages: dict[int, Message], own: Packet) -> None:
        self.net, self.messages, self.own = net, messages, own
        self.start_exchange = net.script.send(own.payload.size, net.step) if messages else None

    def wait(self) -> dict[int, Message]:
        if self.start_exchange is not None:
            self.net.script.wait(self.start_exchange)
        return self.messages

    def mix(self) -> Vector:
        self.wait()
        return np.array(self.own.value)

    def ready(self) -> float:
        return self.net.now


@dataclass(frozen=True)
class Send:
    """A message of `nbytes` to all receivers of this consensus step, or to all peers (None)."""

    nbytes: int
    step: int | None


@dataclass(frozen=True)
class Wait:
    """Wait for what others have sent by their `back`-th last Send (1: the last)."""

    back: int


class OperationLog:
    """What a peer does, in order: "work" for a local gradient, Send, Wait."""

    def __init__(self) -> None:
        self.acts: Acts = []
        self.sent = 0

    def send(self, nbytes: int, step: int | None) -> int:
        """Write down a Send; returns its number."""
        self.acts.append(Send(nbytes, step))
        self.sent += 1
        return self.sent - 1

    def cut(self) -> Acts:
        """What has been written down since the last cut."""
        acts, self.acts = self.acts, []
        return acts

    def wait(self, number: int) -> None:
        """Write down that the Send of this number is waited for."""
        self.acts.append(Wait(self.sent - number))


class DryRunNeighborhood(LocalView):
    """A neighborhood of one; it counts what would be sent (see base.Neighborhood)."""

    def __init__(self, scenario: Scenario, rank: int) -> None:
        self.topology, self.rank, self.peers = scenario.topology, rank, scenario.peers
        self.script, self.link, self.clock = OperationLog(), scenario.experiment.time.link, Clock()
        self.pool, self.step = Pool(), 0
        self.bytes_sent = self.messages_sent = self.bytes_at_start = 0
        self.blocks: dict[int, int] = {}  # bytes to receive into -> how many such at a time

    def message(self, v: Vector, compressor: Compressor | None = None, raw_tail: int = 0) -> Packet:
        return pack(self.pool, v, compressor, raw_tail)

    def exchange(self, m: Vector | Message | Mapping[int, Message]) -> dict[int, Message]:
        return self.start_exchange(m).wait()

    def mix(self, m: Vector | Message) -> Vector:
        return self._send_by_groups(m).mix()

    def for_each(self, m: Vector | Message, see: Callable[[int, Message], None]) -> None:
        echo = self._send_by_groups(m)
        for j, message in sorted({**echo.wait(), self.rank: echo.own}.items()):
            see(j, message)

    def _send_by_groups(self, m: Vector | Message) -> EchoHandle:
        echo = self._send(m)
        senders, size = len(echo.messages), self.capacity(echo.own, echo.own.entries)
        group = group_size(senders, size)
        self._receive(group * size, 1 if group == senders else 2)
        return echo

    def start_exchange(
        self, m: Vector | Message | Mapping[int, Message], to: Ranks = None, sources: Ranks = None
    ) -> Handle:
        echo = self._send(m, to, sources)
        self._receive(len(echo.messages) * self.capacity(echo.own, echo.own.entries))
        return echo

    def simulator_exchange(self, v: Vector) -> dict[int, Vector]:
        return dict.fromkeys(sorted([*self.senders(), self.rank]), v)

    def mean(self, v: Vector) -> Vector:
        blocks = block_sizes(v.size, self.peers)
        own = blocks.pop(self.rank)
        for size in [block for block in blocks if block] + [own] * (len(blocks) if own else 0):
            self._count(size * v.itemsize)
        both = [own * len(blocks) * v.itemsize, sum(blocks) * v.itemsize]
        for nbytes in both:
            self._receive(nbytes, both.count(nbytes))
        for size in (max(blocks, default=0), own):
            self.script.wait(self.script.send(size * v.itemsize, None))
        return v.copy()

    def _send(self, m: Any, to: Ranks = None, sources: Ranks = None) -> EchoHandle:
        messages = m if isinstance(m, Mapping) else None
        own = next(iter(messages.values())) if messages else m
        own = self.message(own) if isinstance(own, np.ndarray) else own
        for j in self.receivers() if to is None else to:
            self._count((messages[j] if messages else own).payload.size)
        return EchoHandle(
            self, dict.fromkeys(self.senders() if sources is None else sources, own), own
        )

    def _count(self, nbytes: int) -> None:
        self.bytes_sent += nbytes
        self.messages_sent += 1

    def _receive(self, nbytes: int, blocks: int = 1) -> None:
        """Blocks of this size are in the pool from now on."""
        self.blocks[nbytes] = max(blocks, self.blocks.get(nbytes, 0))


class NoiseOracle:
    """An oracle whose gradients are noise: compressors meet a dense vector."""

    def __init__(self, scenario: Scenario, net: DryRunNeighborhood) -> None:
        self.net, self.compute, self.step_count = net, scenario.experiment.time.compute, 0
        learning = scenario.experiment.learning
        self.local_steps, self.consensus_steps = learning.local_steps, learning.consensus_steps
        self.shapes: Sequence[Shape] = scenario.shapes
        self.random = generator(0, "rehearsal")

    def grad(self, x: Vector) -> Vector:
        self.net.script.acts.append("work")
        self.step_count += 1
        return self.random.standard_normal(x.size).astype(x.dtype)

    def step(self, x: Vector) -> Vector:
        return self.grad(x)

    def local_step(self, x: Vector, at: Vector | None = None) -> Vector:
        x -= self.grad(x)
        return x

    def update(self, g: Vector, x: Vector) -> Vector:
        return g

    def seconds(self, rank: int, step: int) -> float:
        return self.compute.seconds(rank, step) if self.compute else 0.0

    def partial_grad(self, x: Vector, done: int, blocks: int, until: float) -> Vector:
        self.advance_clock(until)
        return self.grad(x)

    def advance_clock(self, until: float) -> None:
        self.net.clock.work(until)

    def rng(self, purpose: str) -> np.random.Generator:
        return generator(0, purpose, self.net.rank, self.step_count)


Acts: TypeAlias = list[str | Send | Wait]


class DryRun(NamedTuple):
    """What a peer does at the start, in the first period of rounds and in every later one."""

    net: DryRunNeighborhood  # what was sent in the first period
    state: int  # bytes that the algorithm and the optimizer keep
    start: Acts
    first: list[Acts]  # by round
    later: list[Acts]


def rehearse(scenario: Scenario, rank: int) -> DryRun:
    """Two periods of rounds of this peer."""
    algorithm, net = scenario.experiment.algorithm, DryRunNeighborhood(scenario, rank)
    for compressor in algorithm.compressors():
        compressor.bind(scenario.shapes, RandomStream(0, "rehearsal", rank))
    oracle = NoiseOracle(scenario, net)
    dtype = np.dtype(scenario.experiment.model_section.dtype)
    x = oracle.random.standard_normal(scenario.parameters).astype(dtype)
    optimizer = scenario.experiment.learning.optimizer
    optimizer.start(x)
    algorithm.start(x, oracle, net)
    start = net.script.cut()
    net.bytes_at_start, net.bytes_sent, net.messages_sent = net.bytes_sent, 0, 0
    net.blocks.clear()

    def one_round(x: Vector) -> Vector:
        x = algorithm.local(x, oracle, net)
        for _ in range(scenario.experiment.learning.consensus_steps):
            x = algorithm.consensus(x, oracle, net)
            net.step += 1
        return x

    rounds = []
    for number in range(2 * scenario.topology.period):
        if number == scenario.topology.period:
            sent = net.bytes_sent, net.messages_sent
            state = held(algorithm) + held(optimizer)
        x = one_round(x)
        rounds.append(net.script.cut())
    net.bytes_sent, net.messages_sent = sent
    period = scenario.topology.period
    return DryRun(net, state, start, rounds[:period], rounds[period:])


def held(plugin: object) -> int:
    """Bytes of the arrays among a plug-in's attributes."""
    return sum(value.nbytes for value in vars(plugin).values() if isinstance(value, np.ndarray))
