"""Virtual time of one peer (design: virtual time). Evaluation and logging cost nothing."""

from __future__ import annotations

from dataclasses import dataclass

from p2psim.base import NonNegative, Positive


class Clock:
    """Seconds of virtual time; only work and waiting for messages move it."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, seconds: float) -> None:
        """This peer computes for `seconds`."""
        self.now += seconds

    def arrival(self, time: float) -> None:
        """A message that this peer needs is there at `time`: now = max(now, time)."""
        self.now = max(self.now, time)


@dataclass(kw_only=True)
class Link:
    """Every edge of the topology: seconds of latency, bytes per second of bandwidth."""

    latency: NonNegative = 0.0
    bandwidth: Positive | None = None  # None: no limit

    def arrival(self, sent_at: float, nbytes: int) -> float:
        """When a message of `nbytes` sent at `sent_at` is there."""
        transfer = nbytes / self.bandwidth if self.bandwidth else 0.0
        return sent_at + self.latency + transfer
