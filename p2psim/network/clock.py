"""Virtual time of one peer (design: virtual time). Evaluation and logging cost nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from p2psim.errors import InputError

WORK, WAIT, TRANSFER = range(3)
EVENTS = ("work", "wait", "transfer")  # what a row of a schedule may be


class Arrival(NamedTuple):
    """A message: who sent it, when its transfer began and when it is there."""

    sender: int
    sent_at: float
    at: float


class EventSink(Protocol):
    """Where a clock writes down what its peer did, in the order in which it came about."""

    def event(self, kind: int, begin: float, end: float, other: int = -1) -> None: ...


class Clock:
    """Seconds of virtual time; only work and waiting for messages move it.

    `uplink` is the moment from which the peer's uplink is free. `sleep`, where it is set, is
    called whenever the clock has moved: see RealTimePacer.
    """

    def __init__(self, schedule: EventSink | None = None) -> None:
        self.now = self.uplink = 0.0
        self.schedule = schedule
        self.sleep: Callable[[float], None] | None = None

    def work(self, until: float) -> None:
        """This peer computes until then."""
        if until > self.now:
            self._move(WORK, until)

    def arrivals(self, messages: Iterable[Arrival]) -> None:
        """The peer needs all of these: now = max(now, the last arrival)."""
        last = None
        for message in messages:
            if self.schedule and message.at > message.sent_at:
                self.schedule.event(TRANSFER, message.sent_at, message.at, message.sender)
            if message.at > (last.at if last else self.now):
                last = message
        if last:
            self._move(WAIT, last.at, last.sender)

    def depart(self, busy: float) -> float:
        """When a message handed over now sets out, which keeps the uplink for `busy` seconds."""
        begin = max(self.now, self.uplink)
        self.uplink = begin + busy
        return begin

    def _move(self, kind: int, to: float, other: int = -1) -> None:
        if to == math.inf:
            raise InputError(
                "time: virtual time has grown beyond what a number can hold; give shorter steps "
                "and latencies, or a larger bandwidth"
            )
        if self.schedule:
            self.schedule.event(kind, self.now, to, other)
        self.now = to
        if self.sleep:
            self.sleep(to)


class RealTimePacer:
    """Real time that keeps up with virtual time: a peer sleeps until the moment has come.

    Real work that takes longer than virtual work makes it late, and it sleeps less. `alive` is
    called at least once a second.
    """

    def __init__(self, now: float, alive: Callable[[], None]) -> None:
        self.began, self.alive = time.monotonic() - now, alive

    def sleep(self, until: float) -> None:
        """Come back when `until` virtual seconds have passed in real time."""
        while (left := self.began + until - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            self.alive()

    def exclude(self, seconds: float) -> None:
        """So many real seconds just now were no virtual time: an evaluation, a checkpoint."""
        self.began += seconds
