"""The network as one peer sees it: exchange, mix and mean, written once on top of one transfer.

A run, the dry run of `plan` and whatever else stands between an algorithm and the wire override
`Neighborhood._transfer` alone.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from p2psim.base import Compressor, LinkModel, Matrix, Message, Ranks, Vector
from p2psim.network.clock import Clock
from p2psim.network.messages import Packet, Pool, pack, room_for
from p2psim.network.topology import Topology
from p2psim.vectors import CHUNK, chunks

WINDOW = 16 * 2**20  # most bytes that a mix receives into, but two messages always fit


def block_sizes(d: int, n: int) -> list[int]:
    """Divide d entries into n blocks of nearly equal size, one for each peer; return the sizes."""
    return [d * (j + 1) // n - d * j // n for j in range(n)]


def group_size(messages: int, nbytes: int) -> int:
    """Return how many messages of at most `nbytes` each a mix receives at a time.

    All of them if they fit into WINDOW; otherwise those that fit into half of it, at least one.
    """
    return messages if messages * nbytes <= WINDOW else max(1, WINDOW // 2 // nbytes)


class WeightedSum:
    """Compute out = sum_j W[i, j] value_j; `add` is called with increasing ranks.

    The values of other peers are scaled in place: that takes half as long as writing elsewhere.
    The own one too if `overwrite`, and then it becomes the sum.
    """

    def __init__(
        self, pool: Pool, rank: int, own: Packet, row: Vector, overwrite: bool = False
    ) -> None:
        size, dtype = own.entries, own.dtype
        self.rank, self.row, self.overwrite = rank, row, overwrite
        self.decodes, self.empty = own.codec is not None, True
        self.out: Vector = own.value if overwrite else pool.take(size, dtype)
        self.own: Vector = self.out if overwrite else pool.take(min(size, CHUNK), dtype)

    def add(self, packets: dict[int, Message]) -> None:
        """Add the terms of these messages in rank order, and remove them from the dict."""
        ranks = sorted(packets)
        if self.decodes:
            for j in ranks:
                self.add_values({j: packets.pop(j).value})  # its memory is then free again
        else:
            self.add_values({j: packets[j].value for j in ranks})
            packets.clear()

    def add_values(self, values: dict[int, Vector]) -> None:
        """Add the terms of these values, part by part: a part stays in the processor's cache."""
        if self.out.size <= CHUNK:
            self.add_part(self.out, values)
        else:
            for part in chunks(self.out.size, CHUNK):
                self.add_part(self.out[part], {j: value[part] for j, value in values.items()})
        self.empty = False

    def add_part(self, out: Vector, values: dict[int, Vector]) -> None:
        """Add the terms of these values, each of shape (m,), to the part `out` of the sum."""
        total = None if self.empty else out
        # A product takes the place of its factor, but the own vector is kept without `overwrite`;
        # with it, `out` holds the own vector until its turn comes.
        for j, value in values.items():
            own = j == self.rank
            if total is None:
                total = np.multiply(value, self.row[j], value if self.overwrite else out)
            else:
                space = self.own[: out.size] if own and not self.overwrite else value
                term = np.multiply(value, self.row[j], space)
                total = np.add(total, term, out if own else total)


class Route(NamedTuple):
    """Facts of an exchange with all neighbors, of messages of one size, in a step of the period."""

    receivers: list[int]
    entries: dict[int, int]  # of a message, by its sender
    row: Vector  # row i of W_t in the type of the messages, shape (n,)
    groups: list[list[int]]  # of ranks whose messages are received at a time; none: all at once


class PendingTransfer(ABC):
    """Messages in flight, of one consensus step.

    `own` are the messages to send, by receiver. The message of sender j has the codec and type of
    `template` and holds `entries[j]` entries.
    """

    def __init__(
        self,
        net: Neighborhood,
        own: Mapping[int, Packet],
        template: Packet,
        entries: Mapping[int, int],
    ) -> None:
        self.net, self.own, self.template, self.entries = net, own, template, entries
        self.step = net.step

    @abstractmethod
    def wait(self) -> dict[int, Message]:
        """Wait for all messages and move the clock to the last arrival.

        Returns the received messages by sender in rank order.
        """

    @abstractmethod
    def ready(self) -> float:
        """Return the virtual time of the last arrival; the clock does not move."""

    def mix(self) -> Vector:
        """Return sum_j W[i, j] value_j, own included, in rank order, with W of the start."""
        row = self.net.row(self.template.dtype, self.step)
        mixture = WeightedSum(self.net.pool, self.net.rank, self.template, row)
        mixture.add({**self.wait(), self.net.rank: self.template})
        return mixture.out


class Neighborhood(ABC):
    """Operations on the network of one peer; see base.Neighborhood for their meaning.

    `step` is the consensus step t that selects W_t. `control` connects the same peers without
    virtual time and counters. `link` is None for such a control channel: its messages take no
    virtual time.
    """

    rank: int
    peers: int

    def __init__(
        self,
        topology: Topology,
        clock: Clock,
        link: LinkModel | None,
        control: Neighborhood | None = None,
    ) -> None:
        self.topology, self.clock, self.link, self.control = topology, clock, link, control
        self.pool = Pool()
        self.rows: dict[tuple[int, str], Vector] = {}  # of W, by step of the period and type
        self.routes: dict[Any, Route] = {}
        self.step = 0

    @abstractmethod
    def _transfer(
        self,
        own: Mapping[int, Packet],
        template: Packet,
        entries: Mapping[int, int],
        room: int = 0,
    ) -> PendingTransfer:
        """Start sending `own` and receiving from the peers of `entries`; see PendingTransfer.

        `room`: least size in bytes of the block that is received into.
        """

    # The graph, known without a message.

    @property
    def now(self) -> float:
        return self.clock.now

    @property
    def weights(self) -> Matrix:
        return self.topology.at(self.step)

    @property
    def diameter(self) -> int:
        return self.topology.diameter()

    def senders(self, rank: int | None = None) -> list[int]:
        return self.topology.senders(self.rank if rank is None else rank, self.step)

    def receivers(self) -> list[int]:
        return self.topology.receivers(self.rank, self.step)

    def row(self, dtype: Any, step: int) -> Vector:
        """Return row i of W of a consensus step in this type, shape (n,); do not change it."""
        key = step % self.topology.period, np.dtype(dtype).char
        if key not in self.rows:
            self.rows[key] = self.topology.at(step)[self.rank].astype(dtype)
        return self.rows[key]

    def arrival_time(self, sender: int, receiver: int, sent_at: float, m: Message) -> float:
        assert isinstance(m, Packet)
        if not self.link:
            return sent_at
        return self.link.arrival(sender, receiver, sent_at, self.capacity(m, m.entries))

    @staticmethod
    def capacity(template: Packet, entries: int) -> int:
        """Return the most bytes of a message of `entries` entries like the template."""
        itemsize = np.dtype(template.dtype).itemsize
        codec = template.codec
        return room_for(codec, entries, itemsize) if codec else entries * itemsize

    # Operations of algorithms.

    def advance(self) -> None:
        """End a consensus step: the next one uses W_(t+1)."""
        self.step += 1

    def message(self, v: Vector, compressor: Compressor | None = None, raw_tail: int = 0) -> Packet:
        return pack(self.pool, v, compressor, raw_tail)

    def exchange(self, m: Vector | Message | Mapping[int, Message]) -> dict[int, Message]:
        if not isinstance(m, Mapping):
            packet = self._packet(m)
            return dict(self._start(packet, self._route(packet)).wait())
        receivers = self.receivers()
        if not m or sorted(j for j in m if j != self.rank) != receivers:
            raise ValueError(
                f"exchange needs one message for each of the receivers {receivers}; without "
                f"receivers, give one for peer {self.rank} itself, like those that it receives"
            )
        own = {j: self._packet(message) for j, message in m.items()}
        template = own.get(self.rank) or own[receivers[0]]
        own.pop(self.rank, None)
        entries = dict.fromkeys(self.senders(), template.entries)
        return dict(self._transfer(own, template, entries).wait())

    def mix(self, m: Vector | Message, overwrite: bool = False) -> Vector:
        packet = self._packet(m)
        route = self._route(packet)
        # Messages that arrive by groups are added while the own one is still being sent.
        overwrite = overwrite and not (packet.codec or route.groups)
        mixture = WeightedSum(self.pool, self.rank, packet, route.row, overwrite)
        for group in self._arrivals(packet, route):
            mixture.add(group)
        return mixture.out

    def for_each(self, m: Vector | Message, see: Callable[[int, Message], None]) -> None:
        packet = self._packet(m)
        for group in self._arrivals(packet, self._route(packet)):
            for j in sorted(group):
                see(j, group.pop(j))

    def start_exchange(
        self, m: Vector | Message, to: Ranks = None, sources: Ranks = None
    ) -> PendingTransfer:
        # A vector is copied, because its owner may change it before the transfer ends.
        packet = self.message(m) if isinstance(m, np.ndarray) else self._packet(m)
        return self._start(packet, self._route(packet), to, sources)

    def simulator_exchange(self, v: Vector) -> dict[int, Vector]:
        assert self.control
        self.control.step = self.step
        received = {j: message.value for j, message in self.control.exchange(v).items()}
        return dict(sorted({**received, self.rank: v}.items()))

    def mean(self, v: Vector) -> Vector:
        """Return the mean: each peer sums one block of entries in rank order and sends it to all.

        Bytes sent by a peer that owns b of the d entries: itemsize * ((d - b) + (n - 1) * b).
        """
        cuts = [0, *itertools.accumulate(block_sizes(v.size, self.peers))]
        result: Vector = self.pool.take(v.size, v.dtype)
        mine = slice(*cuts[self.rank : self.rank + 2])
        np.divide(self._block_sum(v, cuts), self.peers, out=result[mine], casting="same_kind")
        self._collect_blocks(result, cuts)
        return result

    def _block_sum(self, v: Vector, cuts: list[int]) -> Vector:
        """Send the other peers their blocks of v; return the sum of this peer's, in float64."""
        blocks = [self._dense(v[a:b]) for a, b in itertools.pairwise(cuts)]
        mine = blocks[self.rank]
        others = [j for j in range(self.peers) if j != self.rank]
        own = {j: blocks[j] for j in others if blocks[j].entries}
        entries = dict.fromkeys(others if mine.entries else [], mine.entries)
        parts = self._transfer(own, mine, entries).wait()
        total = np.zeros(mine.entries)
        for _, part in sorted({**parts, self.rank: mine}.items()):
            total += part.value
        return total

    def _collect_blocks(self, result: Vector, cuts: list[int]) -> None:
        """Send this peer's block of `result` to all others and fill in theirs."""
        sizes = [b - a for a, b in itertools.pairwise(cuts)]
        mine = self._dense(result[cuts[self.rank] : cuts[self.rank + 1]])
        others = [j for j in range(self.peers) if j != self.rank]
        own = dict.fromkeys(others if mine.entries else [], mine)
        entries = {j: sizes[j] for j in others if sizes[j]}
        for j, part in self._transfer(own, mine, entries).wait().items():
            result[cuts[j] : cuts[j + 1]] = part.value

    def _route(self, packet: Packet) -> Route:
        """Return the route of a message to all neighbors; prepared once for messages like it."""
        codec, entries = packet.codec, packet.entries
        capacity = self.capacity(packet, entries) if codec else packet.payload.size
        key = self.step % self.topology.period, entries, packet.dtype, capacity
        route = self.routes.get(key)
        if route is None:
            senders, groups = self.senders(), []
            size = group_size(len(senders), capacity)
            if size < len(senders):
                ranks = sorted([*senders, self.rank])
                groups = [ranks[at : at + size] for at in range(0, len(ranks), size)]
            route = self.routes[key] = Route(
                receivers=self.receivers(),
                entries=dict.fromkeys(senders, entries),
                row=self.row(packet.dtype, self.step),
                groups=groups,
            )
        return route

    def _arrivals(self, packet: Packet, route: Route) -> Iterable[dict[int, Message]]:
        """Return the messages of an exchange and the own one, at once or by groups of ranks.

        Drop the messages of a group before the next one is taken.
        """
        if route.groups:
            return self._in_groups(packet, route)
        packets = self._start(packet, route).wait()
        packets[self.rank] = packet
        return [packets]

    def _in_groups(self, packet: Packet, route: Route) -> Iterator[dict[int, Message]]:
        """Yield the messages of these ranks by groups, for which two receive blocks alternate.

        While one group is in use the next one arrives; a block is free once all its messages are
        dropped. All sends start before the first wait, so that no peer has to receive anything
        before others receive from it.
        """
        groups = route.groups
        room = len(groups[0]) * self.capacity(packet, packet.entries)

        def receive(group: list[int]) -> PendingTransfer:
            entries = {j: packet.entries for j in group if j != self.rank}
            return self._transfer({}, packet, entries, room)

        arriving = [receive(group) for group in groups[:2]]
        leaving = self._transfer(dict.fromkeys(route.receivers, packet), packet, {})
        for number, group in enumerate(groups):
            packets = arriving.pop(0).wait()
            if self.rank in group:
                packets[self.rank] = packet
            yield packets
            packets.clear()
            arriving += [receive(later) for later in groups[number + 2 : number + 3]]
        leaving.wait()

    def _start(
        self, packet: Packet, route: Route, to: Ranks = None, sources: Ranks = None
    ) -> PendingTransfer:
        own = dict.fromkeys(route.receivers if to is None else to, packet)
        entries = route.entries if sources is None else dict.fromkeys(sources, packet.entries)
        return self._transfer(own, packet, entries)

    def _packet(self, m: Any) -> Packet:
        return m if isinstance(m, Packet) else self._dense(m)

    def _dense(self, v: Vector) -> Packet:
        """Return a message of the vector's own memory; a copy only if v is not contiguous."""
        v = np.ascontiguousarray(v)
        return Packet(self.pool, v.view(np.uint8), None, v.size, v.dtype, v)
