"""Transport between threads: all peers of a run in one process (--debug)."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


class ThreadHub:
    """State that all ranks of one process share.

    One rank runs at a time, so a breakpoint in one rank stops all of them. A rank that waits for
    messages, or ends, passes the turn to the rank that has been ready for the longest time.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # By (channel, sender, receiver): messages that no receive has matched yet, and the reverse.
        self.messages: dict[Any, deque[Any]] = defaultdict(deque)
        self.receives: dict[Any, deque[PendingReceive]] = defaultdict(deque)
        self.waiting: dict[int, list[PendingReceive]] = {}  # by rank: requests that it waits for
        self.ready = deque(range(size))  # ranks that can run, without the one that runs
        self.turns = [threading.Lock() for _ in range(size)]  # by rank: locked until its turn
        for turn in self.turns:
            turn.acquire()
        self.aborted = False

    def set_ready(self, rank: int) -> None:
        """Make a rank ready if it waits for requests and all of them are done."""
        if rank in self.waiting and all(pending.done for pending in self.waiting[rank]):
            del self.waiting[rank]
            self.ready.append(rank)

    def wait(self, rank: int, requests: list[PendingReceive]) -> None:
        """Let other ranks run until these requests of a rank are done.

        AbortedError if the run is aborted; RuntimeError if no other rank can run.
        """
        if not self.aborted and not all(request.done for request in requests):
            self.check_ready([rank])
            self.waiting[rank] = requests
            self.pass_turn()
            self.turns[rank].acquire()
        if self.aborted:
            raise AbortedError

    def check_ready(self, also: Sequence[int] = ()) -> None:
        """RuntimeError if ranks wait, those of `also` included, and none is ready."""
        waiting = sorted([*self.waiting, *also])
        if waiting and not self.ready:
            peers = ", ".join(map(str, waiting))
            raise RuntimeError(f"nobody sends the messages that these peers wait for: {peers}")

    def pass_turn(self) -> None:
        """Let the next rank run; after an abort, those that wait are ready."""
        if self.aborted:
            self.ready.extend(self.waiting)
            self.waiting.clear()
        if self.ready:
            self.turns[self.ready.popleft()].release()


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
            self.hub.set_ready(to)
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
        self.hub.wait(self.rank, requests)

    def duplicate(self) -> ThreadTransport:
        return ThreadTransport(self.hub, self.rank, self.channel + 1)

    def abort(self, code: int) -> None:
        self.hub.aborted = True


def run_threads(peers: int, body: Callable[[Transport], None]) -> None:
    """Call `body` once for each rank, in threads of this process.

    Raises the exception of the rank that failed first; all other ranks end by AbortedError.
    """
    hub = ThreadHub(peers)
    failures: list[BaseException] = []

    def main(rank: int) -> None:
        hub.turns[rank].acquire()
        try:
            with contextlib.suppress(AbortedError):  # another rank has failed, or will do so
                body(ThreadTransport(hub, rank))
            hub.check_ready()
        except BaseException as error:
            if not hub.aborted:
                failures.append(error)
            hub.aborted = True
        hub.pass_turn()

    threads = [threading.Thread(target=main, args=(rank,), daemon=True) for rank in range(peers)]
    hub.pass_turn()  # to rank 0
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # raised by the handler of a signal
        hub.aborted = True  # the rank that runs ends at its next wait, and the others after it
        for thread in threads:
            thread.join(timeout=EXIT_SECONDS)
        raise
    if failures:
        raise failures[0]
