"""Forecast of a run's virtual time: the clocks of all peers, without models or messages.

The dry run of one peer gives the order of its operations. All peers follow this order, each with
its own neighbors, links and step times.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from p2psim.experiment.dry_run import DryRun, Send, Term, Wait
from p2psim.experiment.scenario import Scenario
from p2psim.network.clock import Arrival, Clock

MAX_MESSAGES = 300_000  # and local steps; a forecast ends with the round that exceeds them


class Forecast(NamedTuple):
    """Virtual seconds until the last peer has completed `rounds` rounds."""

    seconds: float
    rounds: int


class Peers:
    """Clocks of all peers, which perform the same operations in the same order."""

    def __init__(self, scenario: Scenario) -> None:
        self.graph, self.time = scenario.topology, scenario.experiment.time
        self.ranks = range(scenario.peers)
        self.clocks = [Clock() for _ in self.ranks]
        self.steps = self.messages = 0
        # The last Sends, and when each message (sender, receiver) sets out.
        self.sent: deque[tuple[Send, dict[tuple[int, int], float]]] = deque(maxlen=64)

    def perform(self, operation: str | Send | Wait) -> None:
        """Perform one operation on every peer."""
        if isinstance(operation, Send):
            self.send(operation)
        elif isinstance(operation, Wait):
            self.wait(*self.sent[-operation.back])
        else:
            self.work()

    def work(self) -> None:
        """Advance every clock by a local step."""
        if self.time.compute is not None:
            for rank, clock in enumerate(self.clocks):
                clock.work(clock.now + self.time.compute.seconds(rank, self.steps))
        self.steps += 1

    def send(self, operation: Send) -> None:
        """Send every peer's messages."""
        departures = {}
        for rank in self.ranks:
            if operation.step is None:
                receivers = [to for to in self.ranks if to != rank]
            else:
                receivers = self.graph.receivers(rank, operation.step)
            busy = self.time.link.occupies(rank, operation.nbytes)
            for to in receivers:
                departures[rank, to] = self.clocks[rank].depart(busy)
        self.messages += len(departures)
        self.sent.append((operation, departures))

    def wait(self, operation: Send, departures: dict[tuple[int, int], float]) -> None:
        """Advance every clock to the last arrival of the messages of an earlier Send."""
        arrivals: list[list[Arrival]] = [[] for _ in self.ranks]
        for (rank, to), sent_at in departures.items():
            at = self.time.link.arrival(rank, to, sent_at, operation.nbytes)
            arrivals[to].append(Arrival(rank, sent_at, at))
        for clock, messages in zip(self.clocks, arrivals, strict=True):
            clock.arrivals(messages)


def forecast(scenario: Scenario, dry_run: DryRun) -> Forecast | None:
    """Forecast all rounds, or the first ones if they exceed MAX_MESSAGES messages and steps.

    None if the order of operations depends on times that are known in a run only.
    """
    if dry_run.terms:
        return by_shorter_rounds(dry_run.terms)
    if scenario.experiment.algorithm.time_dependent:
        return by_algorithm(scenario)
    peers = Peers(scenario)
    rounds = itertools.chain(dry_run.first, itertools.cycle(dry_run.later))
    # Number 0 is the start of the run.
    for number, operations in enumerate(
        [dry_run.start, *itertools.islice(rounds, scenario.rounds)]
    ):
        for operation in operations:
            peers.perform(operation)
        if number and peers.messages + peers.steps > MAX_MESSAGES:
            break
    return Forecast(max(clock.now for clock in peers.clocks), number)


def by_shorter_rounds(terms: Sequence[Term]) -> Forecast | None:
    """Forecast rounds that are too long to execute, by those of the shorter dry runs."""
    forecasts = [forecast(term.scenario, term.run) for term in terms]
    known = [part for part in forecasts if part is not None]
    if len(known) < len(terms):
        return None
    rounds = min(part.rounds for part in known)
    seconds = sum(
        float(term.factor) * part.seconds / part.rounds
        for term, part in zip(terms, known, strict=True)
    )
    return Forecast(max(0.0, seconds * rounds), rounds)


def by_algorithm(scenario: Scenario, rounds: int | None = None) -> Forecast | None:
    """Forecast by the algorithm's `round_seconds` or `duration`; None if only a run can tell.

    rounds: by default all rounds, but not more than need MAX_MESSAGES local steps of all peers.
    """
    time, setting = scenario.experiment.time, scenario.setting
    limit = max(1, MAX_MESSAGES // (setting.peers * setting.local_steps))
    rounds = min(scenario.rounds, limit) if rounds is None else rounds
    algorithm = scenario.experiment.algorithm
    if algorithm.round_seconds is not None:
        return Forecast(scenario.rounds * algorithm.round_seconds, scenario.rounds)

    def step(t: int) -> list[float]:
        if time.compute is None:
            return [0.0] * setting.peers
        return [time.compute.seconds(rank, t) for rank in range(setting.peers)]

    seconds = algorithm.duration(setting, rounds, step)
    return None if seconds is None else Forecast(seconds, rounds)
