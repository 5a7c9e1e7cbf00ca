"""One peer's view of the network: exchange, mix, post, mean. Counts bytes, moves the clock.

A message on the wire is a header of 24 bytes and the payload. The header holds, little endian:
payload bytes (u8), when it set out in virtual seconds (f8), the sender's consensus step (u4)
and the number of entries that the payload decodes to (u4). `bytes_sent` counts payloads where
they are handed to the wire; headers are counted in `header_bytes`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from p2psim.base import Compressor, Handle, LinkModel, Matrix, Message, Payload, Ranks, Vector
from p2psim.network.clock import Arrival, Clock
from p2psim.network.messages import Packet, Pool, pack
from p2psim.network.topology import Topology
from p2psim.network.transport import Transport

WINDOW = 16 * 2**20  # bytes that a mix receives into at most; never less than two messages
HEADER = np.dtype([("nbytes", "<u8"), ("sent_at", "<f8"), ("step", "<u4"), ("entries", "<u4")])


def block_sizes(d: int, n: int) -> list[int]:
    """How many of d entries each of n peers owns in a mean."""
    return [d * (j + 1) // n - d * j // n for j in range(n)]


def group_size(messages: int, nbytes: int) -> int:
    """How many of these messages, each of at most `nbytes`, a mix receives into one block.

    All where they fit into WINDOW; otherwise it has two blocks of half of that.
    """
    return messages if messages * nbytes <= WINDOW else max(1, WINDOW // 2 // nbytes)


class Transfer:
    """Messages under way. Their buffers stay referenced here until both directions are done.

    `own` are the messages to send by receiver. What peer j of `entries` sends is of the kind of
    `like` and holds `entries[j]` entries; it is received into a block of at least `room` bytes.
    """

    def __init__(
        self,
        net: Neighborhood,
        own: Mapping[int, Packet],
        like: Packet,
        entries: Mapping[int, int],
        room: int = 0,
    ) -> None:
        self.net, self.like, self.own, self.entries = net, like, own, entries
        self.step, self.row = net.step, net.row(like.dtype)
        self.headers = net.pool.take((len(own) + len(entries)) * HEADER.itemsize, np.uint8)
        heads = list(self.headers.reshape(-1, HEADER.itemsize))
        sizes = [net.capacity(like, size) for size in entries.values()]
        block = net.pool.take(max(sum(sizes), room), np.uint8)
        ends = np.cumsum(sizes, dtype=int)
        self.arriving = {
            j: (heads.pop(), block[end - size : end])
            for j, size, end in zip(entries, sizes, ends.tolist(), strict=True)
        }
        self.requests: list[Any] = []
        self.others: list[int] = []  # whom each request is with
        net.in_flight.add(self)
        for j, (header, payload) in self.arriving.items():
            self._add(j, net.wire.receive(header, payload, j))
        for j, packet in own.items():
            self._send(j, packet, heads.pop())

    def _send(self, j: int, packet: Packet, header: Payload) -> None:
        net, nbytes = self.net, packet.payload.size
        sent_at = net.clock.depart(net.link.occupies(net.rank, nbytes)) if net.link else 0.0
        header.view(HEADER)[0] = (nbytes, sent_at, self.step, packet.entries)
        self._add(j, net.wire.send(header, packet.payload, j))
        net.bytes_sent += nbytes
        net.header_bytes += HEADER.itemsize
        net.messages_sent += 1

    def _add(self, j: int, requests: list[Any]) -> None:
        self.requests += requests
        self.others += [j] * len(requests)

    def complete(self) -> None:
        """Wait until both directions are done; the clock does not see it yet."""
        if not self.requests:
            return
        alarms: list[float] = []

        def alarm(seconds: float, undone: list[int]) -> None:
            alarms.append(seconds)
            self.net.alarm(seconds, sorted({self.others[index] for index in undone}))

        self.net.wire.wait(self.requests, alarm)
        self.requests, self.others = [], []
        if alarms:
            self.net.alarm(0.0, [])  # it is over

    def ready(self) -> float:
        return max((arrival.at for arrival in self.arrivals()), default=0.0)

    def arrivals(self) -> list[Arrival]:
        """When each message is there, by sender in rank order; none without a link."""
        self.complete()
        link = self.net.link
        if link is None:
            return []
        found = []
        for j, (header, _) in sorted(self.arriving.items()):
            nbytes, sent_at, _, _ = header.view(HEADER)[0].item()
            found.append(Arrival(j, sent_at, link.arrival(j, self.net.rank, sent_at, nbytes)))
        return found

    def wait(self) -> dict[int, Message]:
        """The messages by sender in rank order; the clock moves to the last arrival."""
        self.net.clock.arrivals(self.arrivals())
        return self.take()

    def take(self) -> dict[int, Message]:
        """The messages, whatever the clock says."""
        self.complete()
        net, like = self.net, self.like
        net.in_flight.discard(self)
        messages: dict[int, Message] = {}
        for j, (header, buffer) in sorted(self.arriving.items()):
            nbytes, _, step, entries = header.view(HEADER)[0].item()
            if (step, entries) != (self.step, self.entries[j]):
                raise RuntimeError(
                    f"consensus step {self.step} expects {self.entries[j]} entries from peer {j}, "
                    f"which sent {entries} in its step {step}: all peers must exchange alike"
                )
            messages[j] = Packet(net.pool, buffer[:nbytes], like.codec, entries, like.dtype)
            net.bytes_received += nbytes
        return messages

    def mix(self) -> Vector:
        """sum_j W[i, j] value_j, own included, in rank order; W of the step of posting."""
        mixture = WeightedSum(self.net.pool, self.like, self.row)
        mixture.add({**self.wait(), self.net.rank: self.like})
        return mixture.out


class WeightedSum:
    """sum_j W[i, j] value_j in the making; whoever adds keeps to the order of the ranks."""

    def __init__(self, pool: Pool, like: Packet, row: Vector) -> None:
        self.row, self.empty = row, True
        self.out: Vector = pool.take(like.entries, like.dtype)
        self.term: Vector = pool.take(like.entries, like.dtype)

    def add(self, packets: dict[int, Message]) -> None:
        """Add the terms of these messages, by sender, and let go of them."""
        for j in sorted(packets):
            packet = packets.pop(j)  # so that its decoded value is free for the next one
            np.multiply(packet.value, self.row[j], out=self.out if self.empty else self.term)
            if not self.empty:
                np.add(self.out, self.term, out=self.out)
            self.empty = False


def silent(seconds: float, peers: list[int]) -> None:
    """An alarm that nobody hears."""


class LocalView:
    """What a peer knows of the graph without asking anybody; see base.Neighborhood."""

    topology: Topology
    link: LinkModel | None
    clock: Clock
    rank: int
    step: int  # the consensus step t that selects W_t

    @property
    def now(self) -> float:
        return self.clock.now

    @property
    def weights(self) -> Matrix:
        return self.topology.at(self.step)

    @property
    def diameter(self) -> int:
        return self.topology.diameter()

    def arrival_time(self, sender: int, receiver: int, sent_at: float, m: Message) -> float:
        assert isinstance(m, Packet)
        if not self.link:
            return sent_at
        return self.link.arrival(sender, receiver, sent_at, self.capacity(m, m.entries))

    def senders(self, rank: int | None = None) -> list[int]:
        return self.topology.senders(self.rank if rank is None else rank, self.step)

    def receivers(self) -> list[int]:
        return self.topology.receivers(self.rank, self.step)

    @staticmethod
    def capacity(like: Packet, entries: int) -> int:
        """Bytes that a message like this one takes at most."""
        itemsize = np.dtype(like.dtype).itemsize
        return like.codec.max_bytes(entries, itemsize) if like.codec else entries * itemsize


class Neighborhood(LocalView):
    """See base.Neighborhood. `step` is the consensus step t that selects W_t.

    Without a link its messages take no virtual time and wait for none.
    """

    def __init__(
        self, wire: Transport, topology: Topology, clock: Clock, link: LinkModel | None = None
    ) -> None:
        self.wire, self.topology, self.clock, self.link = wire, topology, clock, link
        self.rank, self.peers = wire.rank, wire.size
        self.pool = Pool()
        self.step = 0
        self.control: Neighborhood | None = None  # the same peers, without time and counters
        self.in_flight: set[Transfer] = set()
        # Called about once a second of waiting, with the seconds so far and the peers to wait for.
        self.alarm: Callable[[float, list[int]], None] = silent
        self.bytes_sent = self.bytes_received = self.header_bytes = self.messages_sent = 0

    def row(self, dtype: Any) -> Vector:
        """Row i of W_t in the type of the vectors."""
        weights: Vector = self.topology.at(self.step)[self.rank].astype(dtype)
        return weights

    def message(self, v: Vector, compressor: Compressor | None = None, raw_tail: int = 0) -> Packet:
        return pack(self.pool, v, compressor, raw_tail)

    def exchange(self, m: Vector | Message | Mapping[int, Message]) -> dict[int, Message]:
        if not isinstance(m, Mapping):
            return dict(self._start(self._packet(m)).wait())
        receivers = self.receivers()
        if not m or sorted(j for j in m if j != self.rank) != receivers:
            raise ValueError(
                f"exchange needs one message for each of the peers {receivers}, and where there "
                f"are none one for {self.rank} itself, like those that it receives"
            )
        own = {j: self._packet(message) for j, message in m.items()}
        like = own.get(self.rank) or own[receivers[0]]
        own.pop(self.rank, None)
        entries = dict.fromkeys(self.senders(), like.entries)
        return dict(Transfer(self, own, like, entries).wait())

    def mix(self, m: Vector | Message) -> Vector:
        packet = self._packet(m)
        mixture = WeightedSum(self.pool, packet, self.row(packet.dtype))
        for group in self._arrivals(packet):
            mixture.add(group)
        return mixture.out

    def for_each(self, m: Vector | Message, see: Callable[[int, Message], None]) -> None:
        for group in self._arrivals(self._packet(m)):
            for j in sorted(group):
                see(j, group.pop(j))

    def start_exchange(
        self, m: Vector | Message, to: Ranks = None, sources: Ranks = None
    ) -> Handle:
        # A vector is copied: its owner goes on while it travels.
        packet = self.message(m) if isinstance(m, np.ndarray) else self._packet(m)
        return self._start(packet, to, sources)

    def simulator_exchange(self, v: Vector) -> dict[int, Vector]:
        assert self.control
        self.control.step = self.step
        got = {j: message.value for j, message in self.control.exchange(v).items()}
        return dict(sorted({**got, self.rank: v}.items()))

    def mean(self, v: Vector) -> Vector:
        """Each peer sums one block of entries of all peers in rank order and sends it back.

        Bytes sent by a peer that owns b of the d entries: itemsize * ((d - b) + (n - 1) * b).
        """
        n, rank = self.peers, self.rank
        cuts = [0, *itertools.accumulate(block_sizes(v.size, n))]
        blocks = [self._dense(v[a:b]) for a, b in itertools.pairwise(cuts)]
        mine = blocks[rank]
        others = [j for j in range(n) if j != rank]
        sources = others if mine.entries else []
        own = {j: blocks[j] for j in others if blocks[j].entries}
        parts = Transfer(self, own, mine, dict.fromkeys(sources, mine.entries)).wait()
        total = np.zeros(mine.entries)  # float64
        for _, part in sorted({**parts, rank: mine}.items()):
            total += part.value
        result: Vector = self.pool.take(v.size, v.dtype)
        np.divide(total, n, out=result[cuts[rank] : cuts[rank + 1]], casting="same_kind")
        own = dict.fromkeys(sources, self._dense(result[cuts[rank] : cuts[rank + 1]]))
        entries = {j: blocks[j].entries for j in others if blocks[j].entries}
        for j, part in Transfer(self, own, mine, entries).wait().items():
            result[cuts[j] : cuts[j + 1]] = part.value
        return result

    def total(self, v: Vector) -> Vector:
        """sum_i v_i in float64, the same bits on every peer, up a tree of ranks and down again.

        2 (n - 1) messages in all, where `mean` takes 2 n (n - 1) shorter ones.
        """
        rank, step = self.rank, 1
        result = v.astype(np.float64)
        children = []
        while not rank & step and step < self.peers:  # a rank's last 0 bits are those of its tree
            children += [rank + step] if rank + step < self.peers else []
            step *= 2

        def receive(source: int) -> Vector:
            return Transfer(self, {}, own, {source: v.size}).wait()[source].value

        def send(to: int) -> None:
            Transfer(self, {to: own}, own, {}).wait()

        own = self._dense(result)
        for child in children:
            result += receive(child)
        if rank:
            send(rank - step)
            result[:] = receive(rank - step)
        for child in reversed(children):
            send(child)
        return result

    def gather(self, v: Vector) -> Vector:
        """The vectors of all peers as rows, shape (n, len(v))."""
        own = self._dense(v)
        others = [j for j in range(self.peers) if j != self.rank]
        got = Transfer(self, dict.fromkeys(others, own), own, dict.fromkeys(others, v.size)).wait()
        return np.stack([packet.value for _, packet in sorted({**got, self.rank: own}.items())])

    def maximum(self, v: Vector) -> Vector:
        """The largest entries over all peers, shape (len(v),), in log2(n) steps of one message."""
        best = v.copy()
        for step in (2**k for k in range((self.peers - 1).bit_length())):
            own = self.message(best)
            to, source = (self.rank + step) % self.peers, (self.rank - step) % self.peers
            got = Transfer(self, {to: own}, own, {source: v.size}).wait()
            np.maximum(best, got[source].value, out=best)
        return best

    def drain(self) -> None:
        """Let go of whatever is still under way: nothing may be when a peer leaves."""
        for transfer in list(self.in_flight):
            transfer.take()

    def complete(self) -> None:
        """Let whatever is under way arrive; whoever asks for it later finds it."""
        for transfer in self.in_flight:
            transfer.complete()

    def _arrivals(self, packet: Packet) -> Iterator[dict[int, Message]]:
        """What exchange gives and the own message, all at once or by groups, in rank order."""
        senders = self.senders()
        size = group_size(len(senders), self.capacity(packet, packet.entries))
        if size == len(senders):
            yield {**self._start(packet).wait(), self.rank: packet}
        else:
            yield from self._in_groups(packet, sorted([*senders, self.rank]), size)

    def _in_groups(
        self, packet: Packet, ranks: list[int], size: int
    ) -> Iterator[dict[int, Message]]:
        """Messages of these ranks, by groups that are received into two blocks in turn.

        While one group is in use the next one arrives; its block is free once all its messages are
        let go. All sends start before the first wait, so that no peer has to receive anything
        before others receive from it.
        """
        groups = [ranks[at : at + size] for at in range(0, len(ranks), size)]
        room = size * self.capacity(packet, packet.entries)

        def receive(group: list[int]) -> Transfer:
            entries = {j: packet.entries for j in group if j != self.rank}
            return Transfer(self, {}, packet, entries, room)

        arriving = [receive(group) for group in groups[:2]]
        leaving = Transfer(self, dict.fromkeys(self.receivers(), packet), packet, {})
        for number, group in enumerate(groups):
            packets = arriving.pop(0).wait()
            if self.rank in group:
                packets[self.rank] = packet
            yield packets
            packets.clear()
            arriving += [receive(later) for later in groups[number + 2 : number + 3]]
        leaving.wait()

    def _start(self, packet: Packet, to: Ranks = None, sources: Ranks = None) -> Transfer:
        to = self.receivers() if to is None else to
        entries = dict.fromkeys(self.senders() if sources is None else sources, packet.entries)
        return Transfer(self, dict.fromkeys(to, packet), packet, entries)

    def _packet(self, m: Any) -> Packet:
        return m if isinstance(m, Packet) else self._dense(m)

    def _dense(self, v: Vector) -> Packet:
        """A vector as it lies in memory, without a copy."""
        v = np.ascontiguousarray(v)
        return Packet(self.pool, v.view(np.uint8), None, v.size, v.dtype)
