"""Messages over a transport: the header, the counters, and the neighborhood of a real peer.

A message on the wire is a header of 24 bytes and the payload. The header holds, little endian:
payload bytes (u8), virtual seconds at which it set out (f8), the sender's consensus step (u4)
and the number of entries that the payload decodes to (u4). `bytes_sent` counts payloads where
they are handed to the transport; headers are counted in `header_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from p2psim.base import LinkModel, Message, Payload
from p2psim.network.clock import Arrival, Clock
from p2psim.network.messages import Packet
from p2psim.network.neighborhood import Neighborhood, PendingTransfer
from p2psim.network.topology import Topology
from p2psim.network.transport import Transport

HEADER = np.dtype([("nbytes", "<u8"), ("sent_at", "<f8"), ("step", "<u4"), ("entries", "<u4")])
COUNTERS = ("bytes_sent", "bytes_received", "messages_sent", "header_bytes")

# Called about once a second of waiting with the seconds so far and the peers that are waited for,
# and once with 0.0 seconds and no peers when the wait is over.
Alarm: TypeAlias = Callable[[float, list[int]], None]


def silent(seconds: float, peers: list[int]) -> None:
    """Ignore an alarm."""


class Transfer(PendingTransfer):
    """Messages in flight over a transport; it holds their buffers until both directions are done.

    Incoming messages are received into one block of at least `room` bytes.
    """

    net: PeerNeighborhood

    def __init__(
        self,
        net: PeerNeighborhood,
        own: Mapping[int, Packet],
        template: Packet,
        entries: Mapping[int, int],
        room: int = 0,
    ) -> None:
        super().__init__(net, own, template, entries)
        self.headers = net.pool.take((len(own) + len(entries)) * HEADER.itemsize, np.uint8)
        heads = list(self.headers.reshape(-1, HEADER.itemsize))
        sizes = [net.capacity(template, size) for size in entries.values()]
        block = net.pool.take(max(sum(sizes), room), np.uint8)
        ends = np.cumsum(sizes, dtype=int)
        self.arriving = {
            j: (heads.pop(), block[end - size : end])
            for j, size, end in zip(entries, sizes, ends.tolist(), strict=True)
        }
        self.requests: list[Any] = []
        self.others: list[int] = []  # the peer of each request
        net.in_flight.add(self)
        for j, (header, payload) in self.arriving.items():
            self._add(j, net.transport.receive(header, payload, j))
        for j, packet in own.items():
            self._send(j, packet, heads.pop())

    def _send(self, j: int, packet: Packet, header: Payload) -> None:
        net, nbytes = self.net, packet.payload.size
        sent_at = net.clock.depart(net.link.occupies(net.rank, nbytes)) if net.link else 0.0
        header.view(HEADER)[0] = (nbytes, sent_at, self.step, packet.entries)
        self._add(j, net.transport.send(header, packet.payload, j))
        net.bytes_sent += nbytes
        net.header_bytes += HEADER.itemsize
        net.messages_sent += 1

    def _add(self, j: int, requests: list[Any]) -> None:
        self.requests += requests
        self.others += [j] * len(requests)

    def complete(self) -> None:
        """Wait in real time until both directions are done; the clock does not move yet."""
        if not self.requests:
            return
        alarms: list[float] = []

        def alarm(seconds: float, undone: list[int]) -> None:
            alarms.append(seconds)
            self.net.alarm(seconds, sorted({self.others[index] for index in undone}))

        self.net.transport.wait(self.requests, alarm)
        self.requests, self.others = [], []
        if alarms:
            self.net.alarm(0.0, [])

    def ready(self) -> float:
        return max((arrival.at for arrival in self.arrivals()), default=0.0)

    def arrivals(self) -> list[Arrival]:
        """Return the arrival of each message, by sender in rank order; none without a link."""
        self.complete()
        link = self.net.link
        if link is None:
            return []
        arrivals = []
        for j, (header, _) in sorted(self.arriving.items()):
            nbytes, sent_at, _, _ = header.view(HEADER)[0].item()
            at = link.arrival(j, self.net.rank, sent_at, nbytes)
            arrivals.append(Arrival(j, sent_at, at))
        return arrivals

    def wait(self) -> dict[int, Message]:
        self.net.clock.arrivals(self.arrivals())
        return self.take()

    def take(self) -> dict[int, Message]:
        """Return the messages by sender in rank order, whatever the clock says."""
        self.complete()
        net, template = self.net, self.template
        net.in_flight.discard(self)
        messages: dict[int, Message] = {}
        for j, (header, buffer) in sorted(self.arriving.items()):
            nbytes, _, step, entries = header.view(HEADER)[0].item()
            if (step, entries) != (self.step, self.entries[j]):
                raise RuntimeError(
                    f"consensus step {self.step} expects {self.entries[j]} entries from peer {j}, "
                    f"which sent {entries} in its step {step}: all peers must exchange alike"
                )
            messages[j] = Packet(net.pool, buffer[:nbytes], template.codec, entries, template.dtype)
            net.bytes_received += nbytes
        return messages


class PeerNeighborhood(Neighborhood):
    """The neighborhood of a peer that runs: real messages over a transport, counted."""

    control: PeerNeighborhood | None

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        clock: Clock,
        link: LinkModel | None = None,
        control: PeerNeighborhood | None = None,
        alarm: Alarm = silent,
    ) -> None:
        super().__init__(topology, clock, link, control)
        self.transport, self.alarm = transport, alarm
        self.rank, self.peers = transport.rank, transport.size
        self.in_flight: set[Transfer] = set()
        self.bytes_sent = self.bytes_received = self.header_bytes = self.messages_sent = 0

    def _transfer(
        self,
        own: Mapping[int, Packet],
        template: Packet,
        entries: Mapping[int, int],
        room: int = 0,
    ) -> Transfer:
        return Transfer(self, own, template, entries, room)

    def drain(self) -> None:
        """Complete and discard all transfers in flight; none may be left when this rank exits."""
        for transfer in list(self.in_flight):
            transfer.take()

    def complete(self) -> None:
        """Complete all transfers in flight; their messages wait for whoever asks for them."""
        for transfer in self.in_flight:
            transfer.complete()

    def release(self) -> None:
        """Forget the buffers of the pool: later exchanges may have other sizes."""
        self.pool.arrays.clear()

    def counters(self) -> dict[str, int]:
        """Return bytes and messages so far, by the names of COUNTERS."""
        return {name: getattr(self, name) for name in COUNTERS}

    def state(self) -> dict[str, Any]:
        """Return all that the next round depends on; transfers in flight must be complete."""
        return {"step": self.step, "in_flight": list(self.in_flight), **self.counters()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state: transfers in flight are taken over, the own ones are discarded."""
        self.drain()
        self.step, self.in_flight = state["step"], set(state["in_flight"])
        for name in COUNTERS:
            setattr(self, name, state[name])
