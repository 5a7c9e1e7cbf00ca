"""Transport between threads: all peers of a run in one process (--debug)."""

from __future__ import annotations

import ctypes
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from p2psim.base import Payload
from p2psim.errors import AbortedError
from p2psim.network.buffers import Part, address
from p2psim.network.transport import RequestAlarm, Transport

EXIT_SECONDS = 30  # that each thread may take to end after Ctrl-C


@dataclass
class PendingReceive:
    """Request of a ThreadTransport: two buffers to fill, and `done` once they are filled."""

    header: Payload
    payload: Payload
    done: bool = False

    def fill(self, header: Payload, payload: Payload) -> None:
        """Copy a message into the buffers; ValueError if the payload is too long, as in MPI."""
        if payload.size > self.payload.size:
            raise ValueError(f"message of {payload.size} bytes for {self.payload.size} expected")
        self.header[:] = header
        self.payload[: payload.size] = payload
        self.done = True


@dataclass
class ThreadHub:
    """State that all ranks of one process share.

    A rank runs only while it holds the lock `turn`, and releases it only to wait for messages. So
    one rank runs at a time, and a breakpoint in one rank stops all of them.
    """

    size: int
    turn: threading.Lock = field(default_factory=threading.Lock)
    conditions: dict[int, threading.Condition] = field(init=False)  # by rank: it may have to go on
    # By (channel, sender, receiver): messages that no receive has matched yet, and the reverse.
    messages: dict[Any, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    receives: dict[Any, deque[PendingReceive]] = field(default_factory=lambda: defaultdict(deque))
    aborted: bool = False

    def __post_init__(self) -> None:
        self.conditions = {rank: threading.Condition(self.turn) for rank in range(self.size)}


class RepeatedMessages:
    """Messages between threads that repeat; see Transport.prepare."""

    def __init__(
        self, transport: ThreadTransport, receives: Sequence[Part], sends: Sequence[Part]
    ) -> None:
        self.transport, self.receives = transport, receives
        self.per_message = 1 if receives else 0  # a send is complete at once
        # The address of a payload, not a reference: its owner may reuse the memory in between.
        self.sends = [(j, header, address(part), part.size) for j, header, part in sends]

    def start(self) -> list[Any]:
        """Start all messages; returns the requests to wait for."""
        requests = []
        for j, header, payload in self.receives:
            requests += self.transport.receive(header, payload, j)
        for j, header, at, size in self.sends:
            payload = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(at))
            requests += self.transport.send(header, payload, j)
        return requests

    def free(self) -> None:
        """Do nothing: there are no resources but memory."""


class ThreadTransport:
    """Transport of one rank among the threads of a process; messages are copied."""

    library = "threads"
    failures: tuple[type[Exception], ...] = ()

    def __init__(self, hub: ThreadHub, rank: int, channel: int = 0) -> None:
        self.hub, self.rank, self.size, self.channel = hub, rank, hub.size, channel

    def send(self, header: Payload, payload: Payload, to: int) -> list[Any]:
        edge = (self.channel, self.rank, to)
        if self.hub.receives[edge]:
            self.hub.receives[edge].popleft().fill(header, payload)
            self.hub.conditions[to].notify()
        else:
            self.hub.messages[edge].append((header.copy(), payload.copy()))
        return []  # the message is copied, so the sender has nothing to wait for

    def receive(self, header: Payload, payload: Payload, source: int) -> list[Any]:
        edge = (self.channel, source, self.rank)
        request = PendingReceive(header, payload)
        if self.hub.messages[edge]:
            request.fill(*self.hub.messages[edge].popleft())
        else:
            self.hub.receives[edge].append(request)
        return [request]

    def prepare(self, receives: Sequence[Part], sends: Sequence[Part]) -> RepeatedMessages:
        return RepeatedMessages(self, receives, sends)

    def wait(self, requests: list[Any], alarm: RequestAlarm) -> None:
        self.hub.conditions[self.rank].wait_for(
            lambda: self.hub.aborted or all(request.done for request in requests)
        )
        if self.hub.aborted:
            raise AbortedError

    def duplicate(self) -> ThreadTransport:
        return ThreadTransport(self.hub, self.rank, self.channel + 1)

    def abort(self, code: int) -> None:
        self.hub.aborted = True
        for condition in self.hub.conditions.values():
            condition.notify_all()


def run_threads(peers: int, body: Callable[[Transport], None]) -> None:
    """Call `body` once for each rank, in threads of this process.

    Raises the exception of the rank that failed first; all other ranks end by AbortedError.
    """
    hub = ThreadHub(peers)
    failures: list[BaseException] = []

    def main(rank: int) -> None:
        with hub.turn:
            try:
                body(ThreadTransport(hub, rank))
            except AbortedError:
                pass
            except BaseException as error:
                failures.append(error)
                ThreadTransport(hub, rank).abort(1)

    threads = [threading.Thread(target=main, args=(rank,), daemon=True) for rank in range(peers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # raised by the handler of a signal
        # Set without `turn`, whose owner may run for long: each rank ends at its next wait.
        hub.aborted = True
        with hub.turn:
            ThreadTransport(hub, 0).abort(1)
        for thread in threads:
            thread.join(timeout=EXIT_SECONDS)
        raise
    if failures:
        raise failures[0]
