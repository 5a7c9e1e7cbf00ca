"""Dry run of one peer: rounds of the algorithm without network, data or torch.

The dry run counts messages, bytes and memory, and logs the order of sends and waits. `p2psim plan`
reads the traffic of any algorithm from it, so that an algorithm needs no formula for its bytes.
Every neighbor is assumed to send messages like those of this peer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from p2psim.base import Message, Vector
from p2psim.errors import InputError, ReturnValueError, quoted
from p2psim.experiment.scenario import Scenario
from p2psim.experiment.trial import Trial, check_names
from p2psim.learning.oracle import LocalOracle
from p2psim.network.clock import Clock
from p2psim.network.messages import Packet
from p2psim.network.neighborhood import Neighborhood, PendingTransfer
from p2psim.rng import RandomStream, generator
from p2psim.vectors import check_like

NOISE = 2**20 - 3  # different entries of a vector of noise
MOST_STEPS = 256  # local or consensus steps of a round; longer rounds are extrapolated


@dataclass(frozen=True)
class Send:
    """Send of messages of at most `nbytes` each.

    They go to the receivers of consensus step `step`, or to all peers if it is None.
    """

    nbytes: int
    step: int | None


@dataclass(frozen=True)
class Wait:
    """Wait for the messages of a Send of the other peers: back = 1 is the last Send in this log."""

    back: int


class OperationLog:
    """Ordered log of a peer's operations: "work" for a local gradient, Send, Wait."""

    def __init__(self) -> None:
        self.acts: Acts = []
        self.sent = 0

    def send(self, nbytes: int, step: int | None) -> int:
        """Log a Send; return its number, from 0."""
        self.acts.append(Send(nbytes, step))
        self.sent += 1
        return self.sent - 1

    def take(self) -> Acts:
        """Return the logged operations and empty the log; the numbers of Sends continue."""
        acts, self.acts = self.acts, []
        return acts

    def wait(self, number: int) -> None:
        """Log a Wait for the Send of this number."""
        self.acts.append(Wait(self.sent - number))


class EchoTransfer(PendingTransfer):
    """Transfer without a network, in which every neighbor sends the template or zeros.

    Zeros stand for a message with another number of entries than the template.
    """

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
            # Neighbors send what this peer sends: without a Send in this transfer, it waits for
            # their last one.
            last = self.net.log.sent - 1
            self.net.log.wait(last if self.number is None else self.number)
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
    """Neighborhood without a network that counts messages, bytes and blocks of memory."""

    def __init__(self, scenario: Scenario, rank: int, with_control: bool = True) -> None:
        link = scenario.experiment.time.link
        # Control messages have a neighborhood of their own, whose traffic is not reported.
        uncounted = DryRunNeighborhood(scenario, rank, False) if with_control else None
        super().__init__(scenario.topology, Clock(), link, uncounted)
        self.rank, self.peers, self.log = rank, scenario.peers, OperationLog()
        self.bytes_sent = self.messages_sent = self.bytes_at_start = 0
        self.blocks: dict[int, int] = {}  # size of a receive block in bytes -> most blocks in use
        self.taken: dict[int, int] = {}  # size of a receive block in bytes -> blocks in use

    def _transfer(
        self,
        own: Mapping[int, Packet],
        template: Packet,
        entries: Mapping[int, int],
        room: int = 0,
    ) -> EchoTransfer:
        return EchoTransfer(self, own, template, entries, room)

    def send(self, own: Mapping[int, Packet]) -> int:
        """Count the messages by receiver; return the number of the Send in the log."""
        sizes = [packet.payload.size for packet in own.values()]
        self.bytes_sent += sum(sizes)
        self.messages_sent += len(sizes)
        by_graph = own.keys() <= set(self.receivers())
        return self.log.send(max(sizes), self.step if by_graph else None)

    def take_block(self, nbytes: int, change: int) -> None:
        """Count a receive block of `nbytes` as in use (change 1) or as free again (change -1)."""
        self.taken[nbytes] = self.taken.get(nbytes, 0) + change
        self.blocks[nbytes] = max(self.taken[nbytes], self.blocks.get(nbytes, 0))


class PlainStep:
    """Optimizer whose direction is the gradient: the numbers of a dry run have no meaning."""

    def start(self, x: Vector) -> None: ...

    def direction(self, g: Vector, x: Vector) -> Vector:
        return g

    def rate(self, epoch: float, epochs: float) -> float:
        return 1.0


class NoiseOracle(LocalOracle):
    """Oracle whose gradients are noise, so that compressors receive a dense vector.

    It does without the optimizers, whose kernels are torch's: `p2psim plan` must not import torch.
    """

    def __init__(
        self,
        scenario: Scenario,
        net: DryRunNeighborhood,
        x: Vector,
        alive: Callable[[], None],
    ) -> None:
        compute = scenario.experiment.time.compute
        super().__init__(scenario.setting, net.rank, PlainStep(), compute, net.clock, x)
        self.net, self.noise, self.alive = net, noise("dry run", x.size, x.dtype), alive

    def local_step(self, x: Vector, at: Vector | None = None) -> Vector:
        x -= self.step(x if at is None else at)
        return x

    def _evaluate(self, x: Vector, samples: int | None) -> Vector:
        self.alive()
        self.net.log.acts.append("work")
        return self.noise


def noise(purpose: str, size: int, dtype: Any) -> Vector:
    """Return the noise of a purpose, shape (size,), the same in every call.

    The values repeat after NOISE entries: large vectors are made quickly.
    """
    return np.resize(generator(0, purpose).standard_normal(min(size, NOISE)).astype(dtype), size)


Acts: TypeAlias = list[str | Send | Wait]


class Term(NamedTuple):
    """Dry run of rounds with fewer steps, and its factor in the sum that extrapolates a figure."""

    factor: Fraction
    scenario: Scenario
    run: DryRun


class DryRun(NamedTuple):
    """Operations of a peer at the start, in the first period of rounds and in every later period.

    If a round has more than MOST_STEPS steps, `terms` are dry runs of rounds with fewer steps, and
    the operations and the state are those of the first term. A figure that is linear in the steps
    is then the sum of factor times the figure of each term.
    """

    net: DryRunNeighborhood  # messages and bytes of the first period, extrapolated if need be
    state: int  # bytes of the arrays of the algorithm and the optimizer
    optimizer_used: bool  # False if the algorithm takes steps of its own
    start: Acts
    first: list[Acts]  # by round
    later: list[Acts]
    terms: Sequence[Term] = ()


def rehearse(scenario: Scenario, rank: int) -> DryRun:
    """Execute the rounds of this peer without a network, and return what was counted and logged.

    It uses, and changes, the scenario's own algorithm and optimizer. InputError if the algorithm
    cannot run with these parameters, returns no vector, calls exit, or makes no progress.
    """
    for compressor in scenario.experiment.algorithm.compressors():
        compressor.bind(scenario.shapes, RandomStream(0, "rehearsal", rank))
    try:
        with (
            np.errstate(over="ignore", invalid="ignore"),  # as in a run
            contextlib.chdir("."),  # a plug-in may change the current folder
            Trial(
                scenario.experiment.run.patience, "a round of the algorithm", "the algorithm"
            ) as trial,
        ):
            return execute_or_extrapolate(scenario, rank, trial.progress)
    except FloatingPointError as error:  # of the parameters: a dry run has no data
        raise InputError(f"algorithm: {error}") from None
    except SystemExit as error:
        raise InputError(
            f"algorithm: it has ended the program (SystemExit: {error.code}) in a round that was "
            "tried before the start; let it raise another exception"
        ) from error


def execute_or_extrapolate(scenario: Scenario, rank: int, alive: Callable[[], None]) -> DryRun:
    """Execute the rounds, or extrapolate from rounds with at most MOST_STEPS steps.

    The counts are linear in the numbers of local and consensus steps, hence determined by two or
    three shorter rounds. The compressors must be bound.
    """
    learning = scenario.experiment.learning
    steps = learning.local_steps, learning.consensus_steps
    if max(steps) <= MOST_STEPS:
        return execute(scenario, rank, alive)
    short = min(steps[0], MOST_STEPS), min(steps[1], MOST_STEPS)
    slopes = [
        Fraction(count - executed, executed - executed // 2)
        for count, executed in zip(steps, short, strict=True)
    ]
    corners = {short: sum(slopes, Fraction(1))}
    if slopes[0]:
        corners[short[0] // 2, short[1]] = -slopes[0]
    if slopes[1]:
        corners[short[0], short[1] // 2] = -slopes[1]
    terms = []
    for (local, consensus), factor in corners.items():
        shorter = with_steps(scenario, local, consensus)
        terms.append(Term(factor, shorter, execute(shorter, rank, alive)))
    dry_run = terms[0].run._replace(terms=terms)
    net = dry_run.net
    net.messages_sent = extrapolate([(term.factor, term.run.net.messages_sent) for term in terms])
    net.bytes_sent = extrapolate([(term.factor, term.run.net.bytes_sent) for term in terms])
    return dry_run


def extrapolate(terms: Iterable[tuple[Fraction, int]]) -> int:
    """Return the sum of factor times figure, rounded, and at least 0 because figures are counts."""
    return max(0, round(sum(factor * figure for factor, figure in terms)))


def with_steps(scenario: Scenario, local: int, consensus: int) -> Scenario:
    """Return a copy of the scenario with these numbers of local and consensus steps in a round.

    The copy has an algorithm, which is bound anew, and an optimizer of its own: those of `scenario`
    stay as they are.
    """
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


def execute(scenario: Scenario, rank: int, alive: Callable[[], None]) -> DryRun:
    """Execute two periods of the topology; return the dry run.

    Messages, bytes and state are those of the first period, receive blocks those of both. `alive`
    is called before every gradient and every phase.
    """
    algorithm, net = scenario.experiment.algorithm, DryRunNeighborhood(scenario, rank)
    dtype = np.dtype(scenario.experiment.model_section.dtype)
    x = noise("dry run start", scenario.parameters, dtype)
    oracle, optimizer = NoiseOracle(scenario, net, x, alive), scenario.experiment.learning.optimizer
    optimizer.start(x)
    algorithm.start(x, oracle, net)
    start = net.log.take()
    net.bytes_at_start, net.bytes_sent, net.messages_sent = net.bytes_sent, 0, 0
    net.blocks.clear()

    def one_phase(name: str, x: Vector) -> Vector:
        alive()
        return check_phase(scenario, name, getattr(algorithm, name)(x, oracle, net), x)

    def one_round(x: Vector) -> Vector:
        oracle.begin(x)
        x = one_phase("local", x)
        for _ in range(scenario.experiment.learning.consensus_steps):
            x = one_phase("consensus", x)
            net.advance()
        oracle.end(x)
        check_algorithm_metrics(scenario)
        return x

    rounds = []
    for number in range(2 * scenario.topology.period):
        if number == scenario.topology.period:
            sent = net.bytes_sent, net.messages_sent
            state = array_bytes(algorithm) + array_bytes(optimizer)
        x = one_round(x)
        rounds.append(net.log.take())
    net.bytes_sent, net.messages_sent = sent
    period = scenario.topology.period
    return DryRun(net, state, oracle.optimizer_used, start, rounds[:period], rounds[period:])


def check_phase(scenario: Scenario, name: str, result: Any, x: Vector) -> Vector:
    """Return the result of a phase for the model x; InputError if it is no vector such as x."""
    try:
        return check_like(result, x, scenario.experiment.algorithm)
    except ReturnValueError as error:
        plugin = scenario.experiment.table["algorithm"]["name"]
        raise InputError(
            f"algorithm {plugin!r}, method {name!r}: {error}; return the model as a vector"
        ) from error


def check_algorithm_metrics(scenario: Scenario) -> None:
    """Check that the algorithm's metrics are numbers after a round; InputError otherwise."""
    algorithm = scenario.experiment.algorithm
    where = f"algorithm {scenario.experiment.table['algorithm']['name']!r}: metrics"
    check_names(algorithm.metrics, where)
    for name in algorithm.metrics:
        value = getattr(algorithm, name, None)
        try:
            float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise InputError(
                f"{where}: the attribute {name!r} is {quoted(value)} after a round; set it to a "
                "number in every round"
            ) from None


def array_bytes(plugin: object) -> int:
    """Return the bytes of the arrays among a plug-in's attributes, not of those inside lists."""
    return sum(value.nbytes for value in vars(plugin).values() if isinstance(value, np.ndarray))
