"""Interfaces of virtual time: step times and links, pure functions of the seed."""

from __future__ import annotations

from typing import Protocol

from p2psim.base.algorithm import Setting


class StepTimeModel(Protocol):
    """Seconds of virtual time that a peer's local step takes."""

    def bind(self, setting: Setting) -> None:
        """Receive the facts of the run, once; InputError where the model does not suit them."""

    def seconds(self, rank: int, step: int) -> float:
        """Return the seconds of a peer's local step (from 0)."""


class LinkModel(Protocol):
    """Arrival times of messages.

    An optional property `instant` is True where messages take no time at all.
    """

    def bind(self, setting: Setting) -> None:
        """Receive the facts of the run, once; InputError where the model does not suit them."""

    def occupies(self, sender: int, nbytes: int) -> float:
        """Return the seconds for which a message delays the next messages of its sender."""

    def arrival(self, sender: int, receiver: int, sent_at: float, nbytes: int) -> float:
        """Return the virtual time at which a message that departs at `sent_at` arrives."""
