"""Interfaces of the network: compressors, messages, and the neighborhood of one peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from p2psim.base.types import Matrix, Payload, Ranks, Shape, Vector


class Stream(Protocol):
    """A stateless random stream; `position` is the whole of its state."""

    position: int

    def next(self) -> np.random.Generator:
        """Return the generator of the next position."""

    def seed(self) -> int:
        """Return 64 bits that determine the generator of the next position and can travel."""


class Compressor(Protocol):
    """Q or C of the papers: encodes a vector as bytes and decodes bytes to a vector.

    An optional method published() -> tuple[float, str] returns the bytes of one message by the
    count of Aketi et al. 2022, and their formula; `p2psim plan` prints them beside the real ones.
    """

    def bind(self, shapes: Sequence[Shape], stream: Stream) -> None:
        """Receive the shapes of the tensors, in the order of the vector, and a random stream.

        The simulation calls it once, before all other methods. Compressors that work tensor by
        tensor cut the vector by `shapes`; `stream` is this peer's own.
        """

    def encode(self, v: Vector, out: Payload) -> int:
        """Write C(v) into `out`; returns the bytes used. FloatingPointError if v is not finite."""

    def decode(self, payload: Payload, out: Vector) -> None:
        """Write the vector that `payload` encodes into `out`, all d entries."""

    def max_bytes(self, d: int, itemsize: int = 4) -> int:
        """Return the most bytes that `encode` uses for d entries of `itemsize` bytes."""


class Message(Protocol):
    """The exact bytes that travel, and the vector that they decode to."""

    @property
    def payload(self) -> Payload: ...

    @property
    def value(self) -> Vector: ...


class Handle(Protocol):
    """A transfer in flight; ask it once, for the messages or for their weighted sum."""

    def wait(self) -> dict[int, Message]:
        """Return the messages by sender in rank order; the clock moves to the last arrival."""

    def mix(self) -> Vector:
        """Return sum_j W[i, j] value_j, own included, in rank order, with W of the start."""

    def ready(self) -> float:
        """Return the virtual time of the last arrival; the clock does not move."""


class Neighborhood(Protocol):
    """The network as one peer sees it. Vectors that it returns belong to the caller."""

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
        """Rounds of flooding, from step 0 on, until every peer has heard from every other."""

    def senders(self, rank: int | None = None) -> Sequence[int]:
        """Return the in-neighbors of a peer in rank order; of this one by default."""

    def receivers(self) -> Sequence[int]:
        """Return this peer's out-neighbors in rank order."""

    def arrival_time(self, sender: int, receiver: int, sent_at: float, m: Message) -> float:
        """Return the arrival of a message of the size of m that departs at `sent_at`."""

    def message(
        self, v: Vector, compressor: Compressor | None = None, raw_tail: int = 0
    ) -> Message:
        """Encode C(v) as a message; `value` is the vector that every receiver will decode.

        The last `raw_tail` entries of v come after the d that the compressor is bound to and
        travel as they are.
        """

    def exchange(self, m: Vector | Message | Mapping[int, Message]) -> dict[int, Message]:
        """Send m to all out-neighbors, or m[j] to j; returns the in-neighbors' messages by rank.

        m[rank] is not sent. Only its size and kind are used, as template of the messages that a
        peer without out-neighbors receives.
        """

    def mix(self, m: Vector | Message) -> Vector:
        """Return sum_j W[i, j] value_j over in-neighbors and self, in rank order."""

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
        """Exchange v outside the simulated network; returns the vectors by rank, own included.

        The exchange costs neither bytes nor virtual time. It is meant for decisions that depend on
        several clocks, such as the fastest of the neighbors.
        """

    def mean(self, v: Vector) -> Vector:
        """Return the exact mean of v over all peers, by messages outside the topology."""
