"""Virtual time before a run, by the schedule alone: all peers' clocks, without their vectors.

One peer has rehearsed; the others do the same with their own neighbors and their own step times.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import NamedTuple

from p2psim.experiment.dry_run import DryRun, Send, Wait
from p2psim.experiment.scenario import Scenario
from p2psim.network.clock import Arrival, Clock

MESSAGES = 300_000  # after so many no other round is followed


class Forecast(NamedTuple):
    """Virtual seconds until the last peer has done so many rounds."""

    seconds: float
    rounds: int


class Peers:
    """The clocks of all peers, who act in step with each other."""

    def __init__(self, scenario: Scenario) -> None:
        self.graph, self.time = scenario.topology, scenario.experiment.time
        self.ranks = range(scenario.peers)
        self.clocks = [Clock() for _ in self.ranks]
        self.steps = self.messages = 0
        self.sent: deque[tuple[Send, dict[tuple[int, int], float]]] = deque(maxlen=64)

    def act(self, act: str | Send | Wait) -> None:
        """Let all peers do this."""
        if isinstance(act, Send):
            self.send(act)
        elif isinstance(act, Wait):
            self.wait(*self.sent[-act.back])
        else:
            self.work()

    def work(self) -> None:
        """Every peer takes a local step."""
        if self.time.compute is not None:
            for rank, clock in enumerate(self.clocks):
                clock.work(clock.now + self.time.compute.seconds(rank, self.steps))
        self.steps += 1

    def send(self, act: Send) -> None:
        """Every peer's messages set out."""
        made = {}
        for rank in self.ranks:
            receivers = [to for to in self.ranks if to != rank]
            if act.step is not None:
                receivers = self.graph.receivers(rank, act.step)
            busy = self.time.link.occupies(rank, act.nbytes)
            for to in receivers:
                made[rank, to] = self.clocks[rank].depart(busy)
        self.messages += len(made)
        self.sent.append((act, made))

    def wait(self, act: Send, made: dict[tuple[int, int], float]) -> None:
        """Every peer has what others sent it."""
        arrivals: list[list[Arrival]] = [[] for _ in self.ranks]
        for (rank, to), sent_at in made.items():
            at = self.time.link.arrival(rank, to, sent_at, act.nbytes)
            arrivals[to].append(Arrival(rank, sent_at, at))
        for clock, messages in zip(self.clocks, arrivals, strict=True):
            clock.arrivals(messages)


def forecast(scenario: Scenario, rehearsed: DryRun) -> Forecast | None:
    """Follow the rounds, to the last one if there are no more than MESSAGES messages in all.

    None where the order of things depends on times that only a run knows.
    """
    if scenario.experiment.algorithm.time_dependent:
        return by_algorithm(scenario)
    peers = Peers(scenario)
    rounds = itertools.chain(rehearsed.first, itertools.cycle(rehearsed.later))
    for number, acts in enumerate([rehearsed.start, *itertools.islice(rounds, scenario.rounds)]):
        for act in acts:
            peers.act(act)
        if number and peers.messages + peers.steps > MESSAGES:
            break
    return Forecast(max(clock.now for clock in peers.clocks), number)


def by_algorithm(scenario: Scenario, rounds: int | None = None) -> Forecast | None:
    """What the algorithm itself makes of the peers' step times, in so many rounds.

    If not given: all rounds, or as many as MESSAGES step times are enough for.
    """
    time, setting = scenario.experiment.time, scenario.setting
    some = max(1, MESSAGES // (setting.peers * setting.local_steps))
    rounds = min(scenario.rounds, some) if rounds is None else rounds

    def step(t: int) -> list[float]:
        assert time.compute
        return [time.compute.seconds(rank, t) for rank in range(setting.peers)]

    seconds = scenario.experiment.algorithm.duration(setting, rounds, step)
    return None if seconds is None else Forecast(seconds, rounds)
