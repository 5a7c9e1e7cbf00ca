"""Interfaces of the network: compressors, messages, and the neighborhood of one peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from p2psim.base.types import Matrix, Payload, Ranks, Shape, Vector


class Stream(Protocol):
    """A random stream whose only state is `position`: equal positions give equal numbers."""

    position: int

    def next(self) -> np.random.Generator:
        """Return a new generator of this position, and advance the position by 1."""

    def seed(self) -> int:
        """Return the 64-bit seed of this position, and advance the position by 1.

        A sender can put the seed into a message: the receiver then draws the same numbers.
        """


class Compressor(Protocol):
    """Q or C of the papers: encodes a vector as bytes and decodes bytes to a vector.

    An optional method published() -> tuple[float, str] returns the bytes of one message as Aketi
    et al. 2022 count them, and the formula of that count; `p2psim plan` prints both beside the
    bytes that are really sent.
    """

    def bind(self, shapes: Sequence[Shape], stream: Stream) -> None:
        """Receive the shapes of the tensors, in the order of the vector, and a random stream.

        The simulation calls it once, before all other methods. Compressors that work tensor by
        tensor cut the vector by `shapes`; `stream` is this peer's own.
        """

    def encode(self, v: Vector, out: Payload) -> int:
        """Write C(v) into `out`, which has room for max_bytes(d); returns the bytes used.

        FloatingPointError if v is not finite.
        """

    def decode(self, payload: Payload, out: Vector) -> None:
        """Write the vector that `payload` encodes into `out`, all d entries."""

    def max_bytes(self, d: int, itemsize: int = 4) -> int:
        """Return the most bytes that `encode` uses for d entries of `itemsize` bytes."""


class Message(Protocol):
    """The exact bytes that are sent, and the vector that they decode to."""

    @property
    def payload(self) -> Payload: ...

    @property
    def value(self) -> Vector: ...


class Handle(Protocol):
    """A transfer in flight. Call `wait` or `mix` on it, and only once; before that also `ready`."""

    def wait(self) -> dict[int, Message]:
        """Return the received messages by sender in rank order, without this peer's own.

        This peer's clock moves to the last arrival.
        """

    def mix(self) -> Vector:
        """Wait, and return sum_j W[i, j] value_j over the received messages and the own one.

        The sum runs in rank order, with the W_t of the step in which the transfer was started.
        """

    def ready(self) -> float:
        """Return the virtual time (s) of the last arrival; this peer's clock does not move.

        The call waits in real time until all messages are here.
        """


class Neighborhood(Protocol):
    """The network of one peer. The caller may change the vectors that its methods return."""

    rank: int
    peers: int

    @property
    def now(self) -> float:
        """Virtual seconds on this peer's clock."""

    @property
    def weights(self) -> Matrix:
        """W of this consensus step, shape (n, n); read only."""

    @property
    def diameter(self) -> int:
        """Consensus steps, from step 0 on, after which each peer can have information from all."""

    def senders(self, rank: int | None = None) -> Sequence[int]:
        """Return the in-neighbors of a peer in rank order; of this one by default."""

    def receivers(self) -> Sequence[int]:
        """Return this peer's out-neighbors in rank order."""

    def arrival_time(self, sender: int, receiver: int, sent_at: float, m: Message) -> float:
        """Return the virtual time (s) at which a message like m, sent at `sent_at` (s), arrives.

        Nothing is sent. Other messages on the same link are not considered.
        """

    def message(
        self, v: Vector, compressor: Compressor | None = None, raw_tail: int = 0
    ) -> Message:
        """Encode v as a message; its `value` is the vector that every receiver will decode.

        The compressor encodes all entries but the last `raw_tail`, which are sent uncompressed.
        Without a compressor all of v is.
        """

    def exchange(self, m: Vector | Message | Mapping[int, Message]) -> dict[int, Message]:
        """Send m to all out-neighbors, or m[j] to peer j; return the received messages by rank.

        All messages of an exchange have one size and one compressor. m[rank] is not sent: a peer
        without out-neighbors gives it as an example of the messages that it will receive.
        """

    def mix(self, m: Vector | Message, overwrite: bool = False) -> Vector:
        """Exchange m; return sum_j W[i, j] value_j over in-neighbors and self, in rank order.

        With `overwrite` the result may take the memory of the vector m, which saves time.
        """

    def for_each(self, m: Vector | Message, see: Callable[[int, Message], None]) -> None:
        """Exchange m and call see(j, m_j) for each message by rank, own included.

        Only a few messages are in memory at a time.
        """

    def start_exchange(
        self, m: Vector | Message, to: Ranks = None, sources: Ranks = None
    ) -> Handle:
        """Start to exchange m; computation before the handle is used overlaps the transfer.

        `to` are the out-neighbors to send to, `sources` the in-neighbors to receive from; all by
        default. Messages between two peers are matched in the order of the calls.
        """

    def simulator_exchange(self, v: Vector) -> dict[int, Vector]:
        """Exchange v with the neighbors; returns the vectors by rank, own included.

        The simulation itself sends these messages: they cost neither bytes nor virtual time. They
        are meant for decisions that depend on several clocks, such as the fastest neighbor.
        """

    def mean(self, v: Vector) -> Vector:
        """Return the mean of v over all peers, all of which must call it.

        Its messages go to all peers, whatever the topology, and cost bytes and virtual time.
        """
