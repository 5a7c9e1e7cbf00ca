"""Transport over MPI, and the way in which ranks of one node wait for each other.

Ranks usually outnumber cores. So a rank that waits gives its core away: at first it polls MPI a few
times and naps, in turn; later it sleeps for ever longer periods, until another rank wakes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import socket
import time
import uuid
from collections.abc import Sequence
from typing import Any

from p2psim.base import Payload
from p2psim.network.buffers import Part, address
from p2psim.network.transport import ALARM, RequestAlarm

HEADER_TAG, PAYLOAD_TAG = 1, 2
# Bytes. The sender of a larger payload may have to wait until its receiver has received it.
EAGER = 4096
# Requests in one MPI_Testall. MPICH 5.0.2 leaves persistent requests active, so that they cannot be
# started again, if more than 64 requests are tested and some of them are not persistent.
MOST_TESTED = 64
POLLS = 32  # before the core is given away: one poll progresses one message, or a part of it
# Seconds, which Linux rounds up to about 60 microseconds. A yield would be shorter, but it often
# returns at once although other ranks could run, and ten of them cost more than one nap.
NAP = 1e-6
SPIN = 2e-2  # seconds of polling and napping before the first sleep
SHORTEST, LONGEST = 2e-4, 5e-3  # seconds of one sleep between polls without a wake-up
SLEEP_SHARE = 0.1  # of the time waited so far: the length of the next sleep


class Doorbell:
    """Wake-up signals between the ranks of one node, so that waiting takes no processor time.

    MPI can only be polled. On a node with more ranks than cores a polling rank takes the core from
    the rank that it waits for, and a sleeping rank reacts late. So a waiting rank sleeps on a
    datagram socket, and a rank that sends to it also wakes it by a datagram. A lost datagram, or a
    sender on another node, costs one short sleep: it affects speed, never results.
    """

    def __init__(self, comm: Any) -> None:
        """Bind the socket of this rank; collective, since all ranks exchange their addresses."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        name = uuid.uuid4().bytes
        self.socket.bind(self.address(name))
        node, gathered = self.node(), bytearray(2 * len(name) * comm.size)
        comm.Allgather(bytearray(node + name), gathered)
        pairs = [bytes(gathered[start : start + 32]) for start in range(0, len(gathered), 32)]
        self.addresses = {  # of the ranks on this node, by rank
            rank: self.address(pair[16:])
            for rank, pair in enumerate(pairs)
            if pair.startswith(node)
        }
        self.last_rings: dict[int, float] = {}  # time of the last call of `ring`, by rank
        self.crowded = len(self.addresses) > len(os.sched_getaffinity(0))

    @staticmethod
    def address(name: bytes) -> bytes:
        """Return the address of a socket in the abstract namespace, which leaves no file behind."""
        return b"\0p2psim-" + name.hex().encode()

    @staticmethod
    def node() -> bytes:
        """Return 16 bytes that are equal on two ranks if these can send each other datagrams."""
        # Abstract addresses are visible within one network namespace, such as a container's.
        namespace = f"{socket.gethostname()}/{os.stat('/proc/self/ns/net').st_ino}"
        return hashlib.blake2b(namespace.encode(), digest_size=16).digest()

    def ring(self, rank: int) -> None:
        """Wake a rank if it is on this node and may have waited long enough to be asleep."""
        if rank not in self.addresses:
            return
        now, last = time.monotonic(), self.last_rings.get(rank, 0.0)
        self.last_rings[rank] = now
        if now - last > SPIN:
            # If the queue is full, the rank will wake anyway; if it has ended, nobody waits.
            with contextlib.suppress(OSError):
                self.socket.sendto(b"!", self.addresses[rank])

    def sleep(self, seconds: float) -> None:
        """Sleep until another rank wakes this one, at most `seconds`."""
        if select.select([self.socket], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:  # empty the queue: one datagram and ten have the same meaning
                    self.socket.recv(1)


def unlink_shared_memory(pid: int | str = "self") -> None:
    """Remove the names of the MPI library's shared memory that process `pid` has mapped.

    It must be called after all ranks have opened the memory, which exists until the last of them
    ends. Ranks that are killed do not remove the names, and a name alone would keep the memory
    until the machine restarts.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps") as maps:
        lines = (line for line in maps if "/dev/shm/" in line)
        for path in set(re.findall(r"/dev/shm/(?:mpich_shm_|sm_segment\.)\S+", "".join(lines))):
            with contextlib.suppress(FileNotFoundError):  # another rank has removed it
                os.unlink(path)


class PersistentRequests:
    """Persistent MPI requests of messages that repeat; see Transport.prepare."""

    per_message = 2  # header and payload

    def __init__(
        self, transport: MPITransport, receives: Sequence[Part], sends: Sequence[Part]
    ) -> None:
        comm, byte = transport.comm, transport.mpi.BYTE
        self.start_all = transport.mpi.Prequest.Startall
        self.ring, self.receivers = transport.bell.ring, [j for j, _, _ in sends]
        self.waiting_senders = transport.waiting_senders
        self.large = {j for j, _, payload in receives if payload.size > EAGER}
        self.requests: list[Any] = []
        for j, header, payload in receives:
            self.requests.append(comm.Recv_init([header, byte], j, HEADER_TAG))
            self.requests.append(comm.Recv_init([payload, byte], j, PAYLOAD_TAG))
        for j, header, payload in sends:
            # By its address: a reference would keep the pool from handing the payload out again.
            memory = transport.mpi.buffer.fromaddress(address(payload), payload.size)
            self.requests.append(comm.Send_init([header, byte], j, HEADER_TAG))
            self.requests.append(comm.Send_init([memory, byte], j, PAYLOAD_TAG))

    def start(self) -> list[Any]:
        """Start all messages; returns the requests to wait for."""
        self.start_all(self.requests)
        self.waiting_senders |= self.large
        for j in self.receivers:
            self.ring(j)
        return self.requests

    def free(self) -> None:
        """Free the requests, none of which may be in flight."""
        for request in self.requests:
            request.Free()


class MPITransport:
    """Nonblocking point-to-point messages on a communicator of its own."""

    def __init__(self, comm: Any = None, bell: Doorbell | None = None) -> None:
        """Duplicate `comm`, by default MPI.COMM_WORLD; collective over its ranks."""
        import mpi4py

        mpi4py.rc.thread_level = "single"  # no locks inside the library
        from mpi4py import MPI

        self.mpi = MPI
        self.failures: tuple[type[Exception], ...] = (MPI.Exception,)
        self.comm = (comm or MPI.COMM_WORLD).Dup()
        self.bell = bell or Doorbell(self.comm)
        unlink_shared_memory()
        self.waiting_senders: set[int] = set()  # ranks to wake once their payload has arrived
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
            self.waiting_senders.add(source)
        return [
            self.comm.Irecv([header, byte], source, HEADER_TAG),
            self.comm.Irecv([payload, byte], source, PAYLOAD_TAG),
        ]

    def prepare(self, receives: Sequence[Part], sends: Sequence[Part]) -> PersistentRequests:
        return PersistentRequests(self, receives, sends)

    def wait(self, requests: list[Any], alarm: RequestAlarm) -> None:
        test_all, began = self.mpi.Request.Testall, 0.0
        next_alarm = ALARM
        blocks = [requests[at : at + MOST_TESTED] for at in range(0, len(requests), MOST_TESTED)]
        while True:
            for _ in range(POLLS):
                while blocks and test_all(blocks[-1]):
                    blocks.pop()
                if not blocks:
                    while self.waiting_senders:
                        self.bell.ring(self.waiting_senders.pop())
                    return
            began = began or time.perf_counter()
            waited = time.perf_counter() - began
            if waited > next_alarm:
                next_alarm = waited + ALARM
                alarm(waited, [i for i, request in enumerate(requests) if not request.Test()])
            if not self.bell.crowded:
                os.sched_yield()
            elif waited < SPIN:
                time.sleep(NAP)
            else:
                self.bell.sleep(min(max(waited * SLEEP_SHARE, SHORTEST), LONGEST))

    def duplicate(self) -> MPITransport:
        return MPITransport(self.comm, self.bell)

    def abort(self, code: int) -> None:
        self.mpi.COMM_WORLD.Abort(code)
