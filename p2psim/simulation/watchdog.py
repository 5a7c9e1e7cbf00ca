"""Turns a hang into a report: who waits for whom, since when, and who does not wait at all.

Every peer's own file says what it does at this moment (recorder.STATUS). A peer that has waited for
[run] patience reads all of them, and so does p2psim run, which has started them. If one peer is at
work and has for as long taken no step and begun no phase, the run is over: that peer is the
culprit. If none is at work, they wait for each other.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from p2psim.simulation import recorder
from p2psim.simulation.recorder import PeerStatus, Recorder

GRACE = 5.0  # seconds more than peers have to find it out by themselves


class HangError(Exception):
    """The run hangs; `culprit` is the peer that all others wait for."""

    def __init__(self, culprit: int, report: str) -> None:
        super().__init__(report)
        self.culprit = culprit


def look(folder: Path, peers: int, patience: float, began: float = 0.0) -> None:
    """Read what all peers do, and judge what they have done since the run `began`.

    HangError where the run hangs.
    """
    now, moments = time.time(), {}
    for rank in range(peers):
        try:
            moments[rank] = recorder.status_of(folder, rank)
        except OSError:
            raise HangError(rank, f"peer {rank} has not come to its first round") from None
    waiting = {rank: m for rank, m in moments.items() if m.waits}
    at_work = {rank: m for rank, m in moments.items() if not m.waits}
    # The one that has been at it for longest; others may have come to wait just now.
    culprit = min(at_work or waiting, key=lambda rank: moments[rank].since)
    since = moments[culprit].since if at_work else min(m.waits for m in waiting.values())
    if now - max(since, began) < patience:
        return
    chain = [waits(rank, m, now) for rank, m in waiting.items()]
    raise HangError(culprit, "; ".join([blame(culprit, moments[culprit], now), *chain]))


class Watchdog:
    """Alarm of a peer's neighborhoods (transfer.Alarm), active while the peer has an open file."""

    def __init__(self, folder: Path, peers: int, patience: float) -> None:
        self.folder, self.peers, self.patience = folder, peers, patience
        self.log: Recorder | None = None

    def start(self, log: Recorder) -> None:
        """Record waits in this file from now on."""
        self.log = log

    def stop(self) -> None:
        """Ignore waits from now on: the file is about to be closed."""
        self.log = None

    def __call__(self, seconds: float, others: list[int]) -> None:
        """Record that this peer has waited `seconds` for others; without others the wait is over.

        HangError where the run hangs.
        """
        if self.log is None:
            return
        now = time.time()
        self.log.waiting(now - seconds if others else 0.0, others)
        if seconds >= self.patience:
            look(self.folder, self.peers, self.patience)


class Overseer:
    """Looks from outside, for a run whose peers are all at work: none of them would look."""

    def __init__(self, folder: Path, peers: int, patience: float) -> None:
        self.folder, self.peers, self.patience = folder, peers, patience + GRACE
        self.began = time.time()
        self.next = self.began + self.patience

    def __call__(self) -> str:
        """What the culprit does, after that has been written down; "" as long as nothing hangs."""
        if time.time() < self.next:
            return ""
        self.next = time.time() + max(1.0, self.patience / 10)
        files = [self.folder / recorder.peer_file(rank) for rank in range(self.peers)]
        if not all(file.exists() for file in files) or recorder.status(self.folder) != "running":
            return ""
        try:
            look(self.folder, self.peers, self.patience, self.began)
        except HangError as error:
            with contextlib.suppress(OSError):  # a full disk
                recorder.set_failure(self.folder, error.culprit, str(error))
            return str(error)
        return ""


def blame(rank: int, moment: PeerStatus, now: float) -> str:
    """What the culprit does."""
    who = f"peer {rank} on {moment.host}"
    where = f"phase {moment.phase!r} of round {moment.round}"
    if moment.waits:
        return f"all peers wait for each other, {who} since longest, in {where}"
    return f"{who} hangs: in {where} for {now - moment.since:.0f} s, waiting for nobody"


def waits(rank: int, moment: PeerStatus, now: float) -> str:
    """What a peer that waits does."""
    others = ", ".join(map(str, moment.waits_for))
    return (
        f"peer {rank} waits for {others} for {now - moment.waits:.0f} s "
        f"({moment.phase}, round {moment.round})"
    )
