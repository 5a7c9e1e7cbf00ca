"""`p2psim watch`: a run, or the runs of a sweep, followed from another terminal."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2psim.analysis.monitor import Pace, RunMonitor
from p2psim.analysis.monitor_view import display
from p2psim.errors import InputError

PERIOD = 1.0  # seconds between two looks


def watch(path: Path, once: bool, patience: float) -> None:
    """Show the run at `path`, or all in it, until they are over or the user has seen enough.

    A run that has not begun is waited for, `patience` seconds, as is the next one of a sweep.
    InputError where there is none.
    """
    follower, pace = RunMonitor(path), Pace(PERIOD)
    seen = time.monotonic()  # when last there was something to see
    with interrupted() as asked, display(live=not once) as show:
        while not asked:
            if pace.due():
                with pace.looking() as now:
                    try:
                        show.runs(follower.look())
                        seen = now
                    except InputError:
                        if once or now - seen > patience or not may_come(path):
                            raise
                        if not follower.seen:
                            show.say(f"waiting up to {patience:g} s for {str(path)!r} to begin")
                if follower.seen and (once or ended(follower, patience)):
                    return
            time.sleep(0.05)


def may_come(path: Path) -> bool:
    """Whether a run can still appear here."""
    return path.is_dir() or (path.parent.is_dir() and not path.exists())


def ended(follower: RunMonitor, patience: float) -> bool:
    """Whether all is over; in a sweep's folder the next run may begin a little later."""
    sights = list(follower.seen.values())
    if not all(sight.over for sight in sights):
        return False
    alone = list(follower.seen) == [follower.path]
    return alone or time.time() - max(s.written for s in sights) / 1e9 > patience


@contextmanager
def interrupted() -> Iterator[list[int]]:
    """Collects Ctrl-C, which is how to leave: an exception could get lost inside HDF5."""
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
