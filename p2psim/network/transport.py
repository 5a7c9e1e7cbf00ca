"""Interface of a transport: bytes between ranks, over MPI (mpi.py) or between threads (threads.py).

A message is two transfers, a small header and the payload, so that a payload of many megabytes is
sent from and received into the buffers where it is used, without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from p2psim.base import Payload
from p2psim.network.buffers import Part, Repeatable

ALARM = 1.0  # seconds of waiting between two alarms

# Called with the seconds waited so far and the indices of the requests that are not complete.
RequestAlarm: TypeAlias = Callable[[float, list[int]], None]


class Transport(Protocol):
    """Messages between all ranks of a run.

    Messages from one rank to another arrive in the order of sending.
    """

    rank: int
    size: int
    library: str  # name and version of the library that carries the bytes
    failures: tuple[type[Exception], ...]  # exceptions that the death of another rank may cause

    def send(self, header: Payload, payload: Payload, to: int) -> list[Any]:
        """Start to send a message to rank `to`; returns the requests to wait for.

        Neither buffer may change before `wait` has returned.
        """

    def receive(self, header: Payload, payload: Payload, source: int) -> list[Any]:
        """Start to receive a message from rank `source`; returns the requests to wait for.

        The payload that arrives may be shorter than its buffer, and the header states its size. A
        longer payload is an error.
        """

    def prepare(self, receives: Sequence[Part], sends: Sequence[Part]) -> Repeatable:
        """Prepare messages that will be received into and sent from the same buffers repeatedly.

        A part is (peer, header, payload). The payload of a send is only an address and a size:
        its memory must be valid whenever the requests are started, not in between.
        """

    def wait(self, requests: list[Any], alarm: RequestAlarm) -> None:
        """Wait until all requests are complete.

        MPI calls `alarm` about every ALARM seconds; an exception from `alarm` ends the wait.
        Threads never call it; they raise AbortedError if another rank has aborted the run.
        """

    def duplicate(self) -> Transport:
        """Return a second, independent transport between the same ranks."""

    def abort(self, code: int) -> None:
        """End the whole run at once, under MPI with this exit code."""
