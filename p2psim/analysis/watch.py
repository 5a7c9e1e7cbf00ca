"""Command `p2psim watch`: show the progress of a run or a sweep from another terminal."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2psim.analysis.monitor import Pace, RunMonitor
from p2psim.analysis.monitor_view import display
from p2psim.errors import InputError

PERIOD = 1.0  # seconds between two reads


def watch(path: Path, once: bool, patience: float) -> None:
    """Show the run at `path`, or all runs in it, until all are over or the user presses Ctrl-C.

    once: show the present status only. patience: seconds to wait for a run to begin, also for the
    next run of a sweep. InputError if there is no run after that.
    """
    monitor, pace = RunMonitor(path), Pace(PERIOD)
    last_read = time.monotonic()  # of the last successful read
    with collect_interrupts() as interrupts, display(live=not once) as view:
        while not interrupts:
            if pace.due():
                with pace.looking() as now:
                    try:
                        view.runs(monitor.look())
                        last_read = now
                    except InputError:
                        known = bool(monitor.statuses)
                        if once or now - last_read > patience or not (known or may_begin(path)):
                            raise
                        if not known:
                            view.notify(f"waiting up to {patience:g} s for {str(path)!r} to begin")
                if monitor.statuses and (once or ended(monitor, patience)):
                    return
            time.sleep(0.05)


def may_begin(path: Path) -> bool:
    """Return True if a run can still be created at `path`.

    A run.h5 that exists is never a part of one: it has been moved there as a whole.
    """
    if path.is_dir():
        return not (path / "run.h5").exists()
    return path.parent.is_dir() and not path.exists()


def ended(monitor: RunMonitor, patience: float) -> bool:
    """Return True if all runs are over; a sweep's next run may begin within `patience` seconds."""
    statuses = list(monitor.statuses.values())
    if not all(status.over for status in statuses):
        return False
    single = list(monitor.statuses) == [monitor.path]
    return single or time.time() - max(s.written for s in statuses) / 1e9 > patience


@contextmanager
def collect_interrupts() -> Iterator[list[int]]:
    """Collect the numbers of SIGINT (Ctrl-C) in a list, because HDF5 can swallow an exception."""
    signals: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: signals.append(number))
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, previous)
