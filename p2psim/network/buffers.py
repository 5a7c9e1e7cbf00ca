"""Headers and receive blocks of transfers; those that repeat are prepared once.

On a graph that does not change, a peer sends messages of one size to the same peers round after
round. Buffers and requests of such a transfer are kept and started again. They are in use while
anybody holds them: the transfer itself, or a message that lies in the block.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from p2psim.base import Payload
from p2psim.network.messages import Pool

HEADER = struct.Struct("<QdII")  # payload bytes, departure, consensus step, entries
KEPT = 16  # prepared transfers of either direction; the oldest one makes room for a new one

Part: TypeAlias = tuple[int, Payload, Payload]  # peer, header, payload


class Repeatable(Protocol):
    """Requests of a transport that can be started again and again; see Transport.prepare."""

    per_message: int  # requests of a message, in the order of the messages

    def start(self) -> list[Any]: ...

    def free(self) -> None: ...


class ReceiveBuffers:
    """Headers, and one block that messages are received into, with a part for each sender."""

    def __init__(self, pool: Pool, sizes: Mapping[int, int], room: int = 0) -> None:
        """Take memory for a message of at most sizes[j] bytes from each peer j.

        The block has at least `room` bytes.
        """
        self.headers: Payload = pool.take(len(sizes) * HEADER.size, np.uint8)
        self.block: Payload = pool.take(max(sum(sizes.values()), room), np.uint8)
        self.parts: list[Part] = []
        start = 0
        for number, (j, size) in enumerate(sizes.items()):
            header = self.headers[number * HEADER.size : (number + 1) * HEADER.size]
            self.parts.append((j, header, self.block[start : start + size]))
            start += size


class SendBuffers:
    """Headers of messages to several peers, in one array."""

    def __init__(self, pool: Pool, messages: int) -> None:
        self.headers: Payload = pool.take(messages * HEADER.size, np.uint8)
        self.parts: list[Payload] = list(self.headers.reshape(messages, HEADER.size))


class Prepared:
    """Buffers of a transfer that repeats, and its requests."""

    def __init__(
        self, buffers: ReceiveBuffers | SendBuffers, requests: Repeatable, others: list[int]
    ) -> None:
        """Keep the buffers, the requests and the peer of each request."""
        self.buffers, self.requests, self.others = buffers, requests, others
        self.block = buffers.block if isinstance(buffers, ReceiveBuffers) else buffers.headers
        self.idle_counts = 0, 0

    def references(self) -> tuple[int, int]:
        """Return the numbers of references to the buffers and to the memory in them."""
        return sys.getrefcount(self.buffers), sys.getrefcount(self.block)

    @property
    def idle(self) -> bool:
        """True if nothing else refers to the buffers or to a message in them."""
        return self.references() == self.idle_counts


class Repetitions:
    """Transfers of one direction that have come twice with the same key."""

    def __init__(self, prepare: Callable[[Any], Prepared]) -> None:
        self.prepare = prepare
        self.prepared: dict[Any, Prepared] = {}
        self.seen: set[Any] = set()

    def find(self, key: Any, arguments: Any) -> Prepared | None:
        """Return the prepared transfer of a key, prepare(arguments) when the key comes again.

        None for a new key, and while the prepared transfer is in use.
        """
        prepared = self.prepared.get(key)
        if prepared is None and key in self.seen:
            if len(self.prepared) == KEPT:
                self._forget(next(iter(self.prepared)))
            prepared = self.prepared[key] = self.prepare(arguments)
            prepared.idle_counts = prepared.references()
        elif prepared is None:
            if len(self.seen) > 4 * KEPT:  # keys that never come again
                self.seen.clear()
            self.seen.add(key)
        return prepared if prepared and prepared.idle else None

    def clear(self) -> None:
        """Forget all prepared transfers."""
        for key in list(self.prepared):
            self._forget(key)
        self.seen.clear()

    def _forget(self, key: Any) -> None:
        prepared = self.prepared.pop(key)
        if prepared.idle:  # requests in flight end with the transfer that waits for them
            prepared.requests.free()


def address(payload: Payload) -> int:
    """Return the address of a payload's first byte."""
    if payload.size and payload.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(payload.data))  # four times faster
    value: int = payload.__array_interface__["data"][0]
    return value
