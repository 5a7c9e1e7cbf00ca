"""Runs seen from outside while they go on: few and small reads, however long they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2psim.analysis import results
from p2psim.errors import InputError


class Pace:
    """When to look at a run again: every `period` seconds, but for at most a tenth of the time."""

    def __init__(self, period: float) -> None:
        self.period, self.next = period, 0.0

    def due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self.next

    @contextmanager
    def looking(self) -> Iterator[float]:
        """Around a look, which is timed; gives when it began."""
        began = time.monotonic()
        yield began
        self.next = began + max(self.period, 10 * (time.monotonic() - began))


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment. Numbers are NaN where they are not known (yet)."""

    name: str  # of the run's folder, or of its file
    state: str  # in words, see results.state
    over: bool
    failures: list[str]
    written: int  # when run.h5 was, nanoseconds
    done: NDArray[np.int64]  # rounds completed, by peer
    rounds: int  # of how many
    speed: float  # rounds per second, over the last tenth of the way
    loss: float  # mean training loss in the last round that all have completed
    sent: float  # payload bytes of all peers up to that round
    traffic: float  # payload bytes of all peers per second, over the last tenth of the way
    measured: dict[str, float]  # at the last evaluation: mean loss, accuracy, ...

    @property
    def least(self) -> int:
        """Rounds that every peer has completed."""
        return int(self.done.min())

    @property
    def left(self) -> float:
        """Seconds to the end at this speed."""
        return (self.rounds - self.least) / self.speed

    @property
    def behind(self) -> int:
        """Rounds from the slowest peer to the fastest."""
        return int(self.done.max()) - self.least


def look(path: Path, before: RunStatus | None = None) -> RunStatus:
    """A run now. InputError where it is none, or cannot be read at this moment.

    Whether a run that is not marked as ended was killed takes a visit to each peer's own file: it
    is found out only where nothing has moved since `before`.
    """
    origin = results.run_file(path)
    try:
        with results.open_run(origin) as file:
            return sight(file, origin, before)
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as a run ({error})") from None


def sight(file: Any, origin: Path, before: RunStatus | None) -> RunStatus:
    """What an open run.h5 shows."""
    attributes = dict(file.attrs)
    done, rounds = results.recorded(file, "train"), file["train/round"].shape[1]
    status, state, members = str(attributes["status"]), "", []
    over = status != "running"
    if over or before is None or np.array_equal(done, before.done):
        members = results.members(file)
        state = results.state(status, members, done, rounds)
        over = not state.startswith("running (")
    state = state if over else "running"
    return RunStatus(
        name=origin.parent.resolve().name if origin.name == "run.h5" else origin.name,
        state=state,
        over=over,
        failures=results.reasons(members, attributes),
        written=origin.stat().st_mtime_ns,
        done=done,
        rounds=rounds,
        measured=evaluation(file),
        **training(file, int(done.min())),
    )


def training(file: Any, done: int) -> dict[str, float]:
    """The last of `done` rounds, and how fast the last tenth of them went."""
    if not done:
        return dict.fromkeys(("loss", "sent", "traffic", "speed"), np.nan)
    back = min(max(1, done // 10), done - 1)
    then, now = (slice(row, row + 1) for row in (done - 1 - back, done - 1))
    wall, sent = file["train/wall"], file["train/bytes_sent"]
    seconds = float((results.part(wall, now) - results.part(wall, then)).mean())
    total = float(results.part(sent, now).sum())
    return {
        "loss": float(results.column(file, "train/loss", now).mean()),
        "sent": total,
        "traffic": (total - results.part(sent, then).sum()) / seconds if seconds > 0 else np.nan,
        "speed": back / seconds if seconds > 0 else np.nan,
    }


def evaluation(file: Any) -> dict[str, float]:
    """The last row of /eval that all peers have, mean over the peers."""
    row = int(results.recorded(file, "eval").min()) - 1
    if row < 0:
        return {}
    names = ("round", "loss", "accuracy", "consensus_distance")
    last = slice(row, row + 1)
    return {name: float(results.column(file, f"eval/{name}", last).mean()) for name in names}


@dataclass
class RunMonitor:
    """The runs in a folder, or the only one, looked at again and again."""

    path: Path
    seen: dict[Path, RunStatus] = field(default_factory=dict)

    def look(self) -> list[RunStatus]:
        """All of them now. InputError where there is none (yet), or one cannot be read now."""
        self.seen = {run: self.again(run) for run in results.expand(self.path)}
        return list(self.seen.values())

    def again(self, run: Path) -> RunStatus:
        """One of them; what is over is read again only if somebody has gone on with it."""
        before = self.seen.get(run)
        if before and before.over and results.run_file(run).stat().st_mtime_ns == before.written:
            return before
        return look(run, before)
