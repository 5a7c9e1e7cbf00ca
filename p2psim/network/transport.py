"""Bytes between ranks: the only module that knows MPI.

A message is two transfers, a small header and the payload, so that a payload of many megabytes is
sent from and received into the buffers where it is used, without a copy. Ranks usually outnumber
cores: whoever waits gives its core away, first by yielding, then by sleeping ever longer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import socket
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from p2psim.base import Payload
from p2psim.errors import AbortedError

HEADER_TAG, PAYLOAD_TAG = 1, 2
EAGER = 4096  # bytes; the sender of a larger payload waits until its receiver has taken it
POLLS = 4  # in a row, before the core is given away: one poll takes in one message, or a part of it
SPIN = 2e-2  # seconds of polling, the core given away each time, before the first sleep
SHORTEST, LONGEST = 2e-4, 5e-3  # seconds of sleep between polls while no bell rings
PATIENCE = 0.1  # of the time waited so far: what such a sleep may add to it
ALARM = 1.0  # seconds of waiting between two alarms


Alarm: TypeAlias = Callable[[float, list[int]], None]  # seconds waited, requests not yet done


class Transport(Protocol):
    """Bytes between ranks. Messages between two ranks arrive in the order of sending."""

    rank: int
    size: int
    library: str  # what carries the bytes

    def send(self, header: Payload, payload: Payload, to: int) -> list[Any]:
        """Start sending; both buffers must stay as they are until `wait`."""

    def receive(self, header: Payload, payload: Payload, source: int) -> list[Any]:
        """Start receiving at most `payload.size` bytes; the header says how many came."""

    def wait(self, requests: list[Any], alarm: Alarm) -> None:
        """Return when all are done; meanwhile `alarm` may be called now and then."""

    def duplicate(self) -> Transport:
        """A second, independent wire between the same ranks."""

    def abort(self, code: int) -> None:
        """End the whole run now."""


class Doorbell:
    """Wakes a rank on the same node, so that waiting costs nothing and ends at once.

    MPI can only be polled. On a node with more ranks than cores a rank that polls takes the core
    from the one it waits for; one that sleeps instead comes late. So a rank sleeps on a datagram
    socket, and whoever has something for it after a while rings there. A bell that is lost, or a
    sender on another node, costs a short sleep: nothing but speed hangs on it.
    """

    def __init__(self, comm: Any) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        mine = uuid.uuid4().bytes
        self.socket.bind(self.address(mine))
        node, everyone = self.node(), bytearray(2 * len(mine) * comm.size)
        comm.Allgather(bytearray(node + mine), everyone)
        cards = [bytes(everyone[start : start + 32]) for start in range(0, len(everyone), 32)]
        self.near = {
            rank: self.address(card[16:])
            for rank, card in enumerate(cards)
            if card.startswith(node)
        }
        self.met: dict[int, float] = {}  # when this rank last had something for another
        self.crowded = len(self.near) > len(os.sched_getaffinity(0))

    @staticmethod
    def address(name: bytes) -> bytes:
        """Of a rank's socket: in the abstract space, so that no file is left behind."""
        return b"\0p2psim-" + name.hex().encode()

    @staticmethod
    def node() -> bytes:
        """16 bytes that only ranks which can ring each other share."""
        place = f"{socket.gethostname()}/{os.stat('/proc/self/ns/net').st_ino}"
        return hashlib.blake2b(place.encode(), digest_size=16).digest()

    def ring(self, rank: int) -> None:
        """Wake this rank if it is on this node, and may have waited long enough to sleep."""
        if rank not in self.near:
            return
        now, last = time.monotonic(), self.met.get(rank, 0.0)
        self.met[rank] = now
        if now - last > SPIN:
            # A full queue is as good as one more bell; a rank that is gone needs none.
            with contextlib.suppress(OSError):
                self.socket.sendto(b"!", self.near[rank])

    def sleep(self, seconds: float) -> None:
        """Until somebody rings, at most so long."""
        if select.select([self.socket], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.socket.recv(1)


def unlink_shared_memory(pid: int | str = "self") -> None:
    """Take the names off the MPI library's shared memory in a rank, once all ranks have it open.

    The memory stays until the last of them ends, however that ends; a name that was left behind by
    ranks that were killed would keep it for ever.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps") as maps:
        lines = (line for line in maps if "/dev/shm/" in line)
        for path in set(re.findall(r"/dev/shm/(?:mpich_shm_|sm_segment\.)\S+", "".join(lines))):
            with contextlib.suppress(FileNotFoundError):  # another rank was quicker
                os.unlink(path)


class MPITransport:
    """Nonblocking point-to-point MPI on a communicator of its own."""

    def __init__(self, comm: Any = None, bell: Doorbell | None = None) -> None:
        import mpi4py

        mpi4py.rc.thread_level = "single"  # no locks inside the library
        from mpi4py import MPI

        self.mpi = MPI
        self.comm = (comm or MPI.COMM_WORLD).Dup()
        self.bell = bell or Doorbell(self.comm)
        unlink_shared_memory()
        self.owed: set[int] = set()  # senders to be told that their payload has been taken
        self.rank: int = self.comm.rank
        self.size: int = self.comm.size
        version = MPI.Get_library_version().splitlines()[0].rstrip("\x00")
        self.library = " ".join(version.split())

    def send(self, header: Payload, payload: Payload, to: int) -> list[Any]:
        byte = self.mpi.BYTE
        requests = [
            self.comm.Isend([header, byte], to, HEADER_TAG),
            self.comm.Isend([payload, byte], to, PAYLOAD_TAG),
        ]
        self.bell.ring(to)
        return requests

    def receive(self, header: Payload, payload: Payload, source: int) -> list[Any]:
        byte = self.mpi.BYTE
        if payload.size > EAGER:
            self.owed.add(source)
        return [
            self.comm.Irecv([header, byte], source, HEADER_TAG),
            self.comm.Irecv([payload, byte], source, PAYLOAD_TAG),
        ]

    def wait(self, requests: list[Any], alarm: Alarm) -> None:
        test_all, began = self.mpi.Request.Testall, time.perf_counter()
        next_alarm = ALARM
        while not any(test_all(requests) for _ in range(POLLS)):
            waited = time.perf_counter() - began
            if waited > next_alarm:
                next_alarm = waited + ALARM
                alarm(waited, [i for i, request in enumerate(requests) if not request.Test()])
            if waited < SPIN or not self.bell.crowded:
                os.sched_yield()
            else:
                self.bell.sleep(min(max(waited * PATIENCE, SHORTEST), LONGEST))
        while self.owed:
            self.bell.ring(self.owed.pop())

    def duplicate(self) -> MPITransport:
        return MPITransport(self.comm, self.bell)

    def abort(self, code: int) -> None:
        self.mpi.COMM_WORLD.Abort(code)


@dataclass
class PendingReceive:
    """A receive of a ThreadTransport: done once both buffers are filled."""

    header: Payload
    payload: Payload
    done: bool = False

    def fill(self, header: Payload, payload: Payload) -> None:
        """Copy a message in; like MPI, one that is too long is an error."""
        if payload.size > self.payload.size:
            raise ValueError(f"message of {payload.size} bytes for {self.payload.size} expected")
        self.header[:] = header
        self.payload[: payload.size] = payload
        self.done = True


@dataclass
class ThreadHub:
    """What the peers of one process share. A peer runs only while it holds `turn`, and gives it
    up only where it waits for messages: a breakpoint in one peer halts them all."""

    size: int
    turn: threading.Lock = field(default_factory=threading.Lock)
    bells: dict[int, threading.Condition] = field(init=False)
    messages: dict[Any, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    slots: dict[Any, deque[PendingReceive]] = field(default_factory=lambda: defaultdict(deque))
    broken: bool = False

    def __post_init__(self) -> None:
        self.bells = {rank: threading.Condition(self.turn) for rank in range(self.size)}


class ThreadTransport:
    """All peers in one process (--debug): the same messages by copy."""

    library = "threads"

    def __init__(self, hub: ThreadHub, rank: int, channel: int = 0) -> None:
        self.hub, self.rank, self.size, self.channel = hub, rank, hub.size, channel

    def send(self, header: Payload, payload: Payload, to: int) -> list[Any]:
        edge = (self.channel, self.rank, to)
        if self.hub.slots[edge]:
            self.hub.slots[edge].popleft().fill(header, payload)
            self.hub.bells[to].notify()
        else:
            self.hub.messages[edge].append((header.copy(), payload.copy()))
        return []

    def receive(self, header: Payload, payload: Payload, source: int) -> list[Any]:
        edge = (self.channel, source, self.rank)
        slot = PendingReceive(header, payload)
        if self.hub.messages[edge]:
            slot.fill(*self.hub.messages[edge].popleft())
        else:
            self.hub.slots[edge].append(slot)
        return [slot]

    def wait(self, requests: list[Any], alarm: Alarm) -> None:
        self.hub.bells[self.rank].wait_for(lambda: self.hub.broken or all(r.done for r in requests))
        if self.hub.broken:
            raise AbortedError

    def duplicate(self) -> ThreadTransport:
        return ThreadTransport(self.hub, self.rank, self.channel + 1)

    def abort(self, code: int) -> None:
        self.hub.broken = True
        for bell in self.hub.bells.values():
            bell.notify_all()


def run_threads(peers: int, body: Callable[[Transport], None]) -> None:
    """Run `body` as every rank of one process; raises the first peer's exception."""
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
        hub.broken = True  # whoever waits or comes to wait ends there
        with hub.turn:
            ThreadTransport(hub, 0).abort(1)
        for thread in threads:
            thread.join(timeout=30)
        raise
    if failures:
        raise failures[0]
