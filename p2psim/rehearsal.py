"""One peer's round without network, data or torch: what an algorithm sends, keeps and waits for.

`p2psim plan` counts with it, so that any algorithm's traffic is known before a run, without a
second account of its bytes. Neighbors are taken to send what this peer sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from p2psim.base import Compressor, Handle, Message, Shape, Vector
from p2psim.clock import Clock
from p2psim.messages import Pool, pack
from p2psim.neighborhood import Neighborhood, Surroundings, block_sizes, group_size
from p2psim.rng import Stream, generator
from p2psim.scenario import Scenario


class Echo:
    """A handle to messages that have come back as they left."""

    def __init__(self, net: Rehearsal, messages: dict[int, Message], own: Message) -> None:
        self.net, self.messages, self.own = net, messages, own
        self.sent_at = net.clock.now

    def wait(self) -> dict[int, Message]:
        for message in self.messages.values():
            self.net.clock.arrival(self.net.link.arrival(self.sent_at, message.payload.size))
        return self.messages

    def mix(self) -> Vector:
        self.wait()
        return np.array(self.own.value)


class Rehearsal(Surroundings):
    """A neighborhood of one; it counts what would be sent (see base.Neighborhood)."""

    def __init__(self, scenario: Scenario, rank: int) -> None:
        self.topology, self.rank, self.peers = scenario.topology, rank, scenario.peers
        self.link, self.clock = scenario.experiment.time.link, Clock()
        self.pool, self.step = Pool(), 0
        self.bytes_sent = self.messages_sent = self.bytes_at_start = 0
        self.blocks: dict[int, int] = {}  # bytes to receive into -> how many such at a time

    def message(self, v: Vector, compressor: Compressor | None = None, plain: int = 0) -> Message:
        return pack(self.pool, v, compressor, plain)

    def exchange(self, m: Vector | Message | Mapping[int, Message]) -> dict[int, Message]:
        return self.post(m).wait()

    def mix(self, m: Vector | Message) -> Vector:
        return self._send_by_groups(m).mix()

    def visit(self, m: Vector | Message, see: Callable[[int, Message], None]) -> None:
        echo = self._send_by_groups(m)
        for j, message in sorted({**echo.wait(), self.rank: echo.own}.items()):
            see(j, message)

    def _send_by_groups(self, m: Vector | Message) -> Echo:
        echo = self._send(m)
        senders, size = len(echo.messages), self._capacity(echo.own)
        group = group_size(senders, size)
        self._receive(group * size, 1 if group == senders else 2)
        return echo

    def post(self, m: Vector | Message | Mapping[int, Message]) -> Handle:
        echo = self._send(m)
        self._receive(len(echo.messages) * self._capacity(echo.own))
        return echo

    def mean(self, v: Vector) -> Vector:
        blocks = block_sizes(v.size, self.peers)
        own = blocks.pop(self.rank)
        for size in [block for block in blocks if block] + [own] * (len(blocks) if own else 0):
            self._count(size * v.itemsize)
        both = [own * len(blocks) * v.itemsize, sum(blocks) * v.itemsize]
        for nbytes in both:
            self._receive(nbytes, both.count(nbytes))
        for size in (own, max(blocks, default=0)):
            if self.peers > 1:
                self.clock.arrival(self.link.arrival(self.clock.now, size * v.itemsize))
        return v.copy()

    def _send(self, m: Any) -> Echo:
        receivers = self.topology.receivers(self.rank, self.step)
        messages = m if isinstance(m, Mapping) else None
        own = next(iter(messages.values())) if messages else m
        own = self.message(own) if isinstance(own, np.ndarray) else own
        for j in receivers:
            self._count((messages[j] if messages else own).payload.size)
        senders = self.topology.senders(self.rank, self.step)
        return Echo(self, dict.fromkeys(senders, own), own)

    def _count(self, nbytes: int) -> None:
        self.bytes_sent += nbytes
        self.messages_sent += 1

    def _receive(self, nbytes: int, blocks: int = 1) -> None:
        """Blocks of this size are in the pool from now on."""
        self.blocks[nbytes] = max(blocks, self.blocks.get(nbytes, 0))

    @staticmethod
    def _capacity(own: Any) -> int:
        return Neighborhood.capacity(own, own.entries)


class Draws:
    """An oracle whose gradients are noise: compressors meet a dense vector."""

    def __init__(self, scenario: Scenario) -> None:
        learning = scenario.experiment.learning
        self.local_steps, self.consensus_steps = learning.local_steps, learning.consensus_steps
        self.shapes: Sequence[Shape] = scenario.shapes
        self.random = generator(0, "rehearsal")

    def grad(self, x: Vector) -> Vector:
        return self.random.standard_normal(x.size).astype(x.dtype)

    def step(self, x: Vector) -> Vector:
        return self.grad(x)

    def descend(self, x: Vector, at: Vector | None = None) -> Vector:
        x -= self.grad(x)
        return x

    def follow(self, g: Vector, x: Vector) -> Vector:
        return g


def rehearse(scenario: Scenario, rank: int) -> tuple[Rehearsal, int]:
    """One period of rounds of this peer: (what it sent, bytes of the algorithm's state)."""
    algorithm, net = scenario.experiment.algorithm, Rehearsal(scenario, rank)
    for compressor in algorithm.compressors():
        compressor.bind(scenario.shapes, Stream(0, "rehearsal", rank))
    oracle = Draws(scenario)
    dtype = np.dtype(scenario.experiment.model_section.dtype)
    x = oracle.grad(np.zeros(scenario.parameters, dtype))
    algorithm.start(x, oracle, net)
    net.bytes_at_start, net.bytes_sent, net.messages_sent = net.bytes_sent, 0, 0
    net.clock = Clock()
    net.blocks.clear()
    for _ in range(scenario.topology.period):
        x = algorithm.local(x, oracle, net)
        for _ in range(scenario.experiment.learning.consensus_steps):
            x = algorithm.consensus(x, oracle, net)
            net.step += 1
    state = sum(v.nbytes for v in vars(algorithm).values() if isinstance(v, np.ndarray))
    return net, state
