"""Detection of hangs, with a report of all waiting peers and of the peer that they wait for.

Each peer records its current status in its file (run_format.STATUS). A peer that has waited for
[run] patience seconds reads the status of all peers; p2psim run reads it as well. The run hangs if

- a peer that does not wait has completed no step and begun no phase for `patience` seconds: this
  peer is the culprit; or
- all peers have waited for each other for `patience` seconds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from p2psim.simulation import run_file
from p2psim.simulation.recorder import Recorder
from p2psim.simulation.run_format import PeerStatus, peer_file, peer_status

# A requested stop waits so many seconds, or so many mean rounds, for a peer that makes no progress.
STOP_SECONDS, STOP_ROUNDS = 5.0, 10
# Seconds that p2psim run waits longer than the peers, which then report the hang themselves.
GRACE = 5.0


class HangError(Exception):
    """Hang of the run; `culprit` is the rank of the peer that all others wait for."""

    def __init__(self, culprit: int, report: str) -> None:
        super().__init__(report)
        self.culprit = culprit


def check_progress(folder: Path, peers: int, patience: float, began: float = 0.0) -> None:
    """Read the status of all peers; HangError if the run hangs for `patience` seconds.

    `began` (Unix time) is the start of this run: a resumed run reads older times from its files.
    """
    now, statuses = time.time(), {}
    for rank in range(peers):
        try:
            statuses[rank] = peer_status(folder, rank)
        except OSError:
            raise HangError(rank, f"peer {rank} has not begun its first round") from None
    waiting = {rank: status for rank, status in statuses.items() if status.waits}
    working = {rank: status for rank, status in statuses.items() if not status.waits}
    # The peer with the oldest progress: others may have begun to work or to wait just now.
    culprit = min(working or waiting, key=lambda rank: statuses[rank].since)
    since = statuses[culprit].since if working else min(s.waits for s in waiting.values())
    if now - max(since, began) < patience:
        return
    waits = [describe_wait(rank, status, now) for rank, status in waiting.items()]
    raise HangError(culprit, "; ".join([describe_culprit(culprit, statuses[culprit], now), *waits]))


class Watchdog:
    """Alarm of a peer's neighborhoods: records waits and detects hangs while a file is open."""

    def __init__(
        self, folder: Path, peers: int, patience: float, stop_requested: Callable[[], bool] = bool
    ) -> None:
        self.folder, self.peers, self.patience = folder, peers, patience
        self.stop_requested = stop_requested
        self.log: Recorder | None = None

    def start(self, log: Recorder) -> None:
        """Record waits in this file from now on."""
        self.log = log

    def stop(self) -> None:
        """Ignore waits from now on: the file is about to be closed."""
        self.log = None

    def __call__(self, seconds: float, others: list[int]) -> None:
        """Record that this peer has waited `seconds` for the peers `others`; none ends the wait.

        HangError if the run hangs.
        """
        if self.log is None:
            return
        now = time.time()
        self.log.waiting(now - seconds if others else 0.0, others)
        patience = self.patience
        if seconds >= STOP_SECONDS and self.stop_requested():
            # The stop needs all peers, and a peer that hangs does not learn of it.
            patience = min(patience, max(STOP_SECONDS, STOP_ROUNDS * self.log.seconds_per_round()))
        if seconds >= patience:
            check_progress(self.folder, self.peers, patience)


class HangDetector:
    """Hang detection in the launcher, for the case that no peer waits and each one is stuck."""

    def __init__(self, folder: Path, peers: int, patience: float) -> None:
        self.folder, self.peers, self.patience = folder, peers, patience + GRACE
        self.began = time.time()
        self.next = self.began + self.patience

    def __call__(self) -> str:
        """Return the report of a hang and record it in the culprit's file; "" if nothing hangs."""
        if time.time() < self.next:
            return ""
        self.next = time.time() + max(1.0, self.patience / 10)
        files = [self.folder / peer_file(rank) for rank in range(self.peers)]
        if not all(file.exists() for file in files) or run_file.status(self.folder) != "running":
            return ""
        try:
            check_progress(self.folder, self.peers, self.patience, self.began)
        except HangError as error:
            with contextlib.suppress(OSError):  # a full disk
                run_file.set_failure(self.folder, error.culprit, str(error))
            return str(error)
        return ""


def describe_culprit(rank: int, status: PeerStatus, now: float) -> str:
    """Return the part of a report about the culprit."""
    peer = f"peer {rank} on {status.host}"
    phase = f"phase {status.phase!r} of round {status.round}"
    if status.waits:
        return f"all peers wait for each other, {peer} has waited longest, in {phase}"
    return f"{peer} hangs: in {phase} for {now - status.since:.0f} s, waiting for no other peer"


def describe_wait(rank: int, status: PeerStatus, now: float) -> str:
    """Return the part of a report about a waiting peer."""
    others = ", ".join(map(str, status.waits_for))
    return (
        f"peer {rank} has waited for {others} for {now - status.waits:.0f} s "
        f"({status.phase}, round {status.round})"
    )
