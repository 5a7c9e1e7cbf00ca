"""Monitoring of runs from another process: few and small reads, whatever their length."""

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


class Pace:
    """Decide when to read a run again: after `period` seconds, or ten times as long as a read."""

    def __init__(self, period: float) -> None:
        self.period, self.next = period, 0.0

    def due(self) -> bool:
        """Return True if the next read is due."""
        return time.monotonic() >= self.next

    @contextmanager
    def looking(self) -> Iterator[float]:
        """Measure the read in this block and set the time of the next one; yield its begin."""
        began = time.monotonic()
        yield began
        self.next = began + max(self.period, 10 * (time.monotonic() - began))


@dataclass(frozen=True)
class RunStatus:
    """Status of a run at one moment; a float is NaN if nothing is recorded yet."""

    name: str  # of the run's folder, or of its file
    state: str  # in words, see results.state
    over: bool  # complete, failed, stopped or killed
    failures: list[str]  # reasons, and files that are missing
    written: int  # modification time of run.h5 in nanoseconds
    done: NDArray[np.int64]  # rounds completed, by peer
    rounds: int  # of the whole run
    speed: float  # rounds per second, over the last tenth of the completed rounds
    loss: float  # mean training loss in the last round that all peers have completed
    sent: float  # payload bytes of all peers up to that round
    traffic: float  # payload bytes of all peers per second, over the same tenth
    measured: dict[str, float]  # at the last evaluation: mean loss, primary metric, ...
    primary: str  # name of the task's primary metric, a key of `measured`

    @property
    def least(self) -> int:
        """Return the number of rounds that every peer has completed."""
        return int(self.done.min())

    @property
    def left(self) -> float:
        """Return the seconds until all peers complete all rounds at this speed; NaN if unknown."""
        return (self.rounds - self.least) / self.speed

    @property
    def behind(self) -> int:
        """Return the number of rounds from the slowest peer to the fastest."""
        return int(self.done.max()) - self.least


def look(path: Path, before: RunStatus | None = None) -> RunStatus:
    """Return the present status of a run. InputError if `path` cannot be read as a run now.

    The file of each peer is read at the first look (without `before`), after the end, and if no
    peer has completed a round since `before`: only these files show that a run was killed.
    """
    origin = results.run_path(path)
    with results.open_run(origin) as file, results.damage(path):
        results.check_members(file)
        return status_of(file, origin, before)


def status_of(file: Any, origin: Path, before: RunStatus | None) -> RunStatus:
    """Return the status of a run from its open file; `origin` is the path of that file."""
    attributes = dict(file.attrs)
    done, rounds = results.recorded(file, "train"), file["train/round"].shape[1]
    status, state, members = str(attributes["status"]), "", []
    over = status != "running"
    if over or before is None or np.array_equal(done, before.done):
        members = results.members(file)
        state = results.state(status, members, done, rounds)
        over = not state.startswith("running (")
    state = state if over else "running"
    # At the start of a run its files are created one after the other.
    lost = results.lost(members) if over or done.any() else []
    return RunStatus(
        name=origin.parent.resolve().name if origin.name == "run.h5" else origin.name,
        state=state,
        over=over,
        failures=results.reasons(members, attributes) + lost,
        written=origin.stat().st_mtime_ns,
        done=done,
        rounds=rounds,
        measured=evaluation(file),
        primary=primary(file),
        **training(file, int(done.min())),
    )


def training(file: Any, done: int) -> dict[str, float]:
    """Return loss, sent, traffic and speed of RunStatus after `done` rounds; NaN for 0 rounds."""
    if not done:
        return dict.fromkeys(("loss", "sent", "traffic", "speed"), np.nan)
    back = min(max(1, done // 10), done - 1)  # rounds over which the speed is measured
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


def primary(file: Any) -> str:
    """Return the primary column of /eval; see results.Run.primary."""
    if "primary" in file.attrs:
        return str(file.attrs["primary"])
    return results.primary_of_old_run(file["eval/accuracy"][...], file["eval/round"][...])


def evaluation(file: Any) -> dict[str, float]:
    """Return round, loss, primary metric and consensus distance of the last evaluation.

    Means over the peers; {} before all peers have written the first one.
    """
    row = int(results.recorded(file, "eval").min()) - 1
    if row < 0:
        return {}
    names = {"round", "loss", primary(file), "consensus_distance"}
    last = slice(row, row + 1)
    return {name: float(results.column(file, f"eval/{name}", last).mean()) for name in names}


@dataclass
class RunMonitor:
    """Monitor of one run, or of all runs in a sweep's folder; `statuses` are the last ones seen."""

    path: Path
    statuses: dict[Path, RunStatus] = field(default_factory=dict)

    def look(self) -> list[RunStatus]:
        """Return the status of all runs. InputError if there is none or one cannot be read."""
        self.statuses = {run: self.status(run) for run in results.expand(self.path)}
        return list(self.statuses.values())

    def status(self, run: Path) -> RunStatus:
        """Return the status of one run; one that is over is read again only if run.h5 changes."""
        before = self.statuses.get(run)
        if before and before.over and results.run_path(run).stat().st_mtime_ns == before.written:
            return before
        return look(run, before)
