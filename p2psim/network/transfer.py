"""Messages over a transport: the header, the counters, and the neighborhood of a real peer.

A message on the wire is a header of 24 bytes and the payload. The header holds, little endian:
payload bytes (u8), virtual seconds at which it set out (f8), the sender's consensus step (u4)
and the number of entries that the payload decodes to (u4). `bytes_sent` counts payloads where
they are handed to the transport; headers are counted in `header_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from p2psim.base import LinkModel, Message, Payload
from p2psim.network.buffers import (
    HEADER,
    Prepared,
    ReceiveBuffers,
    Repetitions,
    SendBuffers,
    address,
)
from p2psim.network.clock import Arrival, Clock
from p2psim.network.messages import Packet
from p2psim.network.neighborhood import Neighborhood, PendingTransfer
from p2psim.network.topology import Topology
from p2psim.network.transport import Transport

COUNTERS = ("bytes_sent", "bytes_received", "messages_sent", "header_bytes")

# Called about once a second of waiting with the seconds so far and the peers that are waited for,
# and once with 0.0 seconds and no peers when the wait is over.
Alarm: TypeAlias = Callable[[float, list[int]], None]


def silent(seconds: float, peers: list[int]) -> None:
    """Ignore an alarm."""


def flat(started: Iterable[tuple[int, list[Any]]]) -> tuple[list[Any], list[int]]:
    """Return the requests of all pairs (peer, its requests), and the peer of each request."""
    requests: list[Any] = []
    others: list[int] = []
    for j, own in started:
        requests += own
        others += [j] * len(own)
    return requests, others


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
        net.in_flight.add(self)
        self.alarmed = False
        self.receiving, self.requests, self.others = net.start_receiving(template, entries, room)
        self.sending, requests, others = net.start_sending(own, self.step)
        self.requests = self.requests + requests
        self.others = self.others + others

    def complete(self) -> None:
        """Wait in real time until both directions are done; the clock does not move yet."""
        if self.requests:
            self.net.transport.wait(self.requests, self._alarm)
            self.requests, self.others = [], []
            if self.alarmed:
                self.net.alarm(0.0, [])

    def _alarm(self, seconds: float, undone: list[int]) -> None:
        self.alarmed = True
        self.net.alarm(seconds, sorted({self.others[index] for index in undone}))

    def ready(self) -> float:
        return max((arrival.at for arrival in self._read()[1]), default=0.0)

    def wait(self) -> dict[int, Message]:
        messages, arrivals = self._read()
        self.net.clock.arrivals(arrivals)
        return self._deliver(messages)

    def take(self) -> dict[int, Message]:
        """Return the messages by sender in rank order, whatever the clock says."""
        return self._deliver(self._read()[0])

    def _read(self) -> tuple[dict[int, Message], list[Arrival]]:
        """Complete the transfer; return the messages, and their arrivals, in rank order.

        There are no arrivals without a link. RuntimeError if a message is of another consensus
        step, or of another size.
        """
        self.complete()
        net, template, link = self.net, self.template, self.net.link
        messages: dict[int, Message] = {}
        arrivals = []
        for j, header, buffer in self.receiving.parts:
            nbytes, sent_at, step, entries = HEADER.unpack_from(header.data)
            if step != self.step or entries != self.entries[j]:
                raise RuntimeError(
                    f"consensus step {self.step} expects {self.entries[j]} entries from peer {j}, "
                    f"which sent {entries} in its step {step}: all peers must exchange alike"
                )
            if link:
                arrivals.append(Arrival(j, sent_at, link.arrival(j, net.rank, sent_at, nbytes)))
            messages[j] = Packet(net.pool, buffer[:nbytes], template.codec, entries, template.dtype)
        return messages, arrivals

    def _deliver(self, messages: dict[int, Message]) -> dict[int, Message]:
        """Count the received messages and return them; the transfer is over."""
        self.net.in_flight.discard(self)
        for message in messages.values():
            self.net.bytes_received += message.payload.size
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
        # On a graph that changes, every step of the period would keep a block of its own.
        self.repeats = topology.period == 1
        self.receives = Repetitions(self._prepare_receive)
        self.sends = Repetitions(self._prepare_send)
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

    def start_receiving(
        self, template: Packet, entries: Mapping[int, int], room: int
    ) -> tuple[ReceiveBuffers, list[Any], list[int]]:
        """Start to receive `entries[j]` entries from each peer j.

        Returns the buffers, the requests and the peer of each request.
        """
        sizes = {j: self.capacity(template, entries[j]) for j in sorted(entries)}
        prepared = None
        if self.repeats and not room:
            prepared = self.receives.find(tuple(sizes.items()), sizes)
        if prepared:
            assert isinstance(prepared.buffers, ReceiveBuffers)
            return prepared.buffers, prepared.requests.start(), prepared.others
        buffers = ReceiveBuffers(self.pool, sizes, room)
        receive = self.transport.receive
        return buffers, *flat((j, receive(h, payload, j)) for j, h, payload in buffers.parts)

    def start_sending(
        self, own: Mapping[int, Packet], step: int
    ) -> tuple[SendBuffers | None, list[Any], list[int]]:
        """Start to send the messages by receiver, count them, and let them occupy the uplink.

        Returns as `start_receiving` does.
        """
        if not own:
            return None, [], []
        packets = list(own.values())
        prepared = None
        if self.repeats and packets.count(packets[0]) == len(packets):
            payload = packets[0].payload
            key = (address(payload), payload.size, *own)
            prepared = self.sends.find(key, (list(own), payload))
        buffers = prepared.buffers if prepared else SendBuffers(self.pool, len(packets))
        assert isinstance(buffers, SendBuffers)
        for header, packet in zip(buffers.parts, packets, strict=True):
            nbytes = packet.payload.size
            sent_at = self.clock.depart(self.link.occupies(self.rank, nbytes)) if self.link else 0.0
            HEADER.pack_into(header.data, 0, nbytes, sent_at, step, packet.entries)
            self.bytes_sent += nbytes
        self.header_bytes += len(packets) * HEADER.size
        self.messages_sent += len(packets)
        if prepared:
            return buffers, prepared.requests.start(), prepared.others
        headers, send = dict(zip(own, buffers.parts, strict=True)), self.transport.send
        return buffers, *flat((j, send(headers[j], own[j].payload, j)) for j in own)

    def _prepare_receive(self, sizes: Mapping[int, int]) -> Prepared:
        buffers = ReceiveBuffers(self.pool, sizes)
        requests = self.transport.prepare(buffers.parts, [])
        others = [j for j in sizes for _ in range(requests.per_message)]
        return Prepared(buffers, requests, others)

    def _prepare_send(self, message: tuple[list[int], Payload]) -> Prepared:
        receivers, payload = message
        buffers = SendBuffers(self.pool, len(receivers))
        parts = [(j, h, payload) for j, h in zip(receivers, buffers.parts, strict=True)]
        requests = self.transport.prepare([], parts)
        others = [j for j in receivers for _ in range(requests.per_message)]
        return Prepared(buffers, requests, others)

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
        self.receives.clear()
        self.sends.clear()
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
