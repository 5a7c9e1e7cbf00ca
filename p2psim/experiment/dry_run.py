"""One peer's round without network, data or torch: what an algorithm sends, keeps and waits for.

`p2psim plan` counts with it, so that any algorithm's traffic is known before a run, without a
second account of its bytes. Neighbors are taken to send what this peer sends.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import numpy as np

from p2psim.base import Message, Vector
from p2psim.experiment.scenario import Scenario
from p2psim.learning.oracle import LocalOracle
from p2psim.network.clock import Clock
from p2psim.network.messages import Packet
from p2psim.network.neighborhood import Neighborhood, PendingTransfer
from p2psim.rng import RandomStream, generator

MOST_STEPS = 256  # local or consensus steps of a round that are executed


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


class EchoTransfer(PendingTransfer):
    """A transfer whose messages come back as they left: neighbors send what this peer sends."""

    net: DryRunNeighborhood

    def __init__(
        self,
        net: DryRunNeighborhood,
        own: Mapping[int, Packet],
        template: Packet,
        entries: Mapping[int, int],
        room: int,
    ) -> None:
        super().__init__(net, own, template, entries)
        self.nbytes = max(room, sum(net.capacity(template, size) for size in entries.values()))
        net.take_block(self.nbytes, 1)
        self.number = net.send(own) if own else None

    def wait(self) -> dict[int, Message]:
        if self.entries:
            # Who only receives here waits for a message that its neighbors sent with its last one.
            self.net.script.wait(self.net.script.sent - 1 if self.number is None else self.number)
        self.net.take_block(self.nbytes, -1)
        return {j: self._echo(size) for j, size in sorted(self.entries.items())}

    def ready(self) -> float:
        return self.net.now

    def _echo(self, entries: int) -> Packet:
        template = self.template
        if entries == template.entries:
            return template
        zeros = np.zeros(entries, template.dtype)
        return Packet(self.net.pool, zeros.view(np.uint8), None, entries, template.dtype)


class DryRunNeighborhood(Neighborhood):
    """A neighborhood without a network; it counts messages, bytes and blocks of memory."""

    def __init__(self, scenario: Scenario, rank: int, control: bool = True) -> None:
        link = scenario.experiment.time.link
        beside = DryRunNeighborhood(scenario, rank, control=False) if control else None
        super().__init__(scenario.topology, Clock(), link, beside)
        self.rank, self.peers, self.script = rank, scenario.peers, OperationLog()
        self.bytes_sent = self.messages_sent = self.bytes_at_start = 0
        self.blocks: dict[int, int] = {}  # bytes to receive into -> most such blocks at a time
        self.taken: dict[int, int] = {}  # bytes to receive into -> such blocks now

    def _transfer(
        self,
        own: Mapping[int, Packet],
        template: Packet,
        entries: Mapping[int, int],
        room: int = 0,
    ) -> EchoTransfer:
        return EchoTransfer(self, own, template, entries, room)

    def send(self, own: Mapping[int, Packet]) -> int:
        """Count messages by receiver; returns the number of the Send in the log."""
        sizes = [packet.payload.size for packet in own.values()]
        self.bytes_sent += sum(sizes)
        self.messages_sent += len(sizes)
        by_graph = own.keys() <= set(self.receivers())
        return self.script.send(max(sizes), self.step if by_graph else None)

    def take_block(self, nbytes: int, change: int) -> None:
        """Count a block that is received into from now on (1), or that is free again (-1)."""
        self.taken[nbytes] = self.taken.get(nbytes, 0) + change
        self.blocks[nbytes] = max(self.taken[nbytes], self.blocks.get(nbytes, 0))


class NoiseOracle(LocalOracle):
    """An oracle whose gradients are noise: compressors meet a dense vector."""

    def __init__(self, scenario: Scenario, net: DryRunNeighborhood, x: Vector) -> None:
        learning, compute = scenario.experiment.learning, scenario.experiment.time.compute
        super().__init__(scenario.setting, net.rank, learning.optimizer, compute, net.clock, x)
        self.net, self.noise = net, generator(0, "dry run")

    def _evaluate(self, x: Vector, samples: int | None) -> Vector:
        self.net.script.acts.append("work")
        return self.noise.standard_normal(x.size).astype(x.dtype)


Acts: TypeAlias = list[str | Send | Wait]


class Term(NamedTuple):
    """A dry run of shorter rounds, with its factor in the sum that extrapolates a figure."""

    factor: Fraction
    scenario: Scenario
    run: DryRun


class DryRun(NamedTuple):
    """What a peer does at the start, in the first period of rounds and in every later one.

    Where rounds have too many steps to execute, `terms` holds shorter dry runs: a figure per round
    is the sum of factor times the figure of each term.
    """

    net: DryRunNeighborhood  # what was sent in the first period
    state: int  # bytes that the algorithm and the optimizer keep
    start: Acts
    first: list[Acts]  # by round
    later: list[Acts]
    terms: Sequence[Term] = ()


def rehearse(scenario: Scenario, rank: int) -> DryRun:
    """Return the dry run of this peer; rounds of more than MOST_STEPS steps are extrapolated.

    What a peer does in a round grows linearly with the local and with the consensus steps, so
    three shorter rounds determine it: messages and bytes of `net` are those of the whole round.
    """
    learning = scenario.experiment.learning
    steps = learning.local_steps, learning.consensus_steps
    if max(steps) <= MOST_STEPS:
        return execute(scenario, rank)
    short = min(steps[0], MOST_STEPS), min(steps[1], MOST_STEPS)
    slopes = [
        Fraction(whole - part, part - part // 2) for whole, part in zip(steps, short, strict=True)
    ]
    corners = {short: 1 + slopes[0] + slopes[1]}
    if slopes[0]:
        corners[short[0] // 2, short[1]] = -slopes[0]
    if slopes[1]:
        corners[short[0], short[1] // 2] = -slopes[1]
    terms = []
    for (local, consensus), factor in corners.items():
        shorter = with_steps(scenario, local, consensus)
        terms.append(Term(factor, shorter, execute(shorter, rank)))
    whole = terms[0].run._replace(terms=terms)
    net = whole.net
    net.messages_sent = extrapolate([(term.factor, term.run.net.messages_sent) for term in terms])
    net.bytes_sent = extrapolate([(term.factor, term.run.net.bytes_sent) for term in terms])
    return whole


def extrapolate(terms: Iterable[tuple[Fraction, int]]) -> int:
    """Return the sum of factor times figure; 0 if it is negative: figures are counts."""
    return max(0, round(sum(factor * figure for factor, figure in terms)))


def with_steps(scenario: Scenario, local: int, consensus: int) -> Scenario:
    """Return the scenario with other numbers of steps in a round, and plug-ins of its own."""
    experiment = scenario.experiment
    learning = replace(
        experiment.learning,
        local_steps=local,
        consensus_steps=consensus,
        optimizer=copy.deepcopy(experiment.learning.optimizer),
    )
    algorithm = copy.deepcopy(experiment.algorithm)
    shorter = replace(
        scenario, experiment=replace(experiment, learning=learning, algorithm=algorithm)
    )
    algorithm.bind(shorter.setting)
    return shorter


def execute(scenario: Scenario, rank: int) -> DryRun:
    """Execute two periods of rounds of this peer."""
    algorithm, net = scenario.experiment.algorithm, DryRunNeighborhood(scenario, rank)
    for compressor in algorithm.compressors():
        compressor.bind(scenario.shapes, RandomStream(0, "rehearsal", rank))
    dtype = np.dtype(scenario.experiment.model_section.dtype)
    x = generator(0, "dry run start").standard_normal(scenario.parameters).astype(dtype)
    oracle, optimizer = NoiseOracle(scenario, net, x), scenario.experiment.learning.optimizer
    algorithm.start(x, oracle, net)
    start = net.script.cut()
    net.bytes_at_start, net.bytes_sent, net.messages_sent = net.bytes_sent, 0, 0
    net.blocks.clear()

    def one_round(x: Vector) -> Vector:
        oracle.begin(x)
        x = algorithm.local(x, oracle, net)
        for _ in range(scenario.experiment.learning.consensus_steps):
            x = algorithm.consensus(x, oracle, net)
            net.advance()
        oracle.end(x)
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
