"""Virtual time of one peer (design: virtual time). Evaluation and logging cost nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from p2psim.errors import InputError

WORK, WAIT, TRANSFER = range(3)
EVENTS = ("work", "wait", "transfer")  # kinds of a schedule's rows, in this order


class Arrival(NamedTuple):
    """A message: its sender, when its transfer began, and when it arrives."""

    sender: int
    sent_at: float
    at: float


class EventSink(Protocol):
    """Receives the events of a clock in order."""

    def event(self, kind: int, begin: float, end: float, other: int = -1) -> None: ...


class RealTimePacer:
    """Keeps real time up with virtual time: the peer sleeps until the virtual moment has come.

    Real work that takes longer than virtual work makes the peer late, and it sleeps less. Before
    `start` nothing sleeps. `alive` is called at least once a second of sleep.
    """

    def __init__(self, alive: Callable[[], None]) -> None:
        self.began: float | None = None
        self.alive = alive

    def start(self, now: float) -> None:
        """Begin: `now` virtual seconds have passed so far."""
        self.began = time.monotonic() - now

    def sleep(self, until: float) -> None:
        """Return when `until` virtual seconds have passed in real time."""
        if self.began is None:
            return
        while (left := self.began + until - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            self.alive()

    def exclude(self, seconds: float) -> None:
        """Exclude real seconds that were no virtual time: an evaluation, a checkpoint."""
        if self.began is not None:
            self.began += seconds


class Clock:
    """Seconds of virtual time; only work and waiting for messages move it.

    `uplink` is the moment from which the peer's uplink is free.
    """

    def __init__(self, events: EventSink | None = None, pacer: RealTimePacer | None = None) -> None:
        self.now = self.uplink = 0.0
        self.events, self.pacer = events, pacer

    def work(self, until: float) -> None:
        """Compute until a moment."""
        if until > self.now:
            self._move(WORK, until)

    def arrivals(self, messages: Iterable[Arrival]) -> None:
        """Wait for all of these messages: now = max(now, the last arrival)."""
        last = None
        for message in messages:
            if self.events and message.at > message.sent_at:
                self.events.event(TRANSFER, message.sent_at, message.at, message.sender)
            if message.at > (last.at if last else self.now):
                last = message
        if last:
            self._move(WAIT, last.at, last.sender)

    def depart(self, busy: float) -> float:
        """Return when a message handed over now sets out; it keeps the uplink `busy` seconds."""
        begin = max(self.now, self.uplink)
        self.uplink = begin + busy
        return begin

    def state(self) -> dict[str, float]:
        """Return both times."""
        return {"now": self.now, "uplink": self.uplink}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self.now, self.uplink = state["now"], state["uplink"]

    def _move(self, kind: int, to: float, other: int = -1) -> None:
        if to == math.inf:
            raise InputError(
                "time: virtual time has grown beyond what a number can hold; give shorter steps "
                "and latencies, or a larger bandwidth"
            )
        if self.events:
            self.events.event(kind, self.now, to, other)
        self.now = to
        if self.pacer:
            self.pacer.sleep(to)
