"""Requests to stop a run, by a signal to this process or by a file in the run folder."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from p2psim.errors import StoppedError
from p2psim.launcher import environment, ranks
from p2psim.simulation import run_file

# Seconds in which a rank may receive one signal twice: directly, and forwarded by its stub.
ECHO = 1.0


def set_handlers(handlers: Mapping[int, Any]) -> None:
    """Set handlers of signals, {number: handler}, unless in a thread, where Python forbids it."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def restored_handlers() -> Iterator[None]:
    """Restore the signal handlers of the caller after this block, which runs experiments.

    A signal that has stopped a run is then raised again: the handler of the caller gets it, as if
    it had arrived once the checkpoint was written. Ctrl-C becomes KeyboardInterrupt in this way.
    """
    # None, a handler that was not set from Python, cannot be set again.
    before: dict[int, Any] = {n: signal.getsignal(n) or signal.SIG_DFL for n in ranks.STOPPING}
    stopped_by = 0
    try:
        yield
    except StoppedError as error:
        stopped_by = error.signal
        raise
    finally:
        set_handlers(before)
        if stopped_by:
            signal.raise_signal(stopped_by)


class StopRequest:
    """Request to stop a run: signals to this process, or a file in the run folder."""

    def __init__(self, folder: Path) -> None:
        folder = folder.absolute()
        self.file, self.signals, self.first = folder / run_file.STOP, 0, 0.0
        self.last = 0  # signal

    def listen(self, *numbers: int) -> StopRequest:
        """Count these signals, even if this process inherited that they are ignored."""
        set_handlers(dict.fromkeys(numbers, self.count))
        return self

    def count(self, number: int, frame: object) -> None:
        """Count a signal (as its handler).

        It raises nothing at the first signal: the exception might be lost, or interrupt any line.
        """
        self.signals += 1
        self.last = number
        now = time.monotonic()
        self.first = self.first or now
        if number == signal.SIGINT and environment.mpi_rank() and now - self.first > ECHO:
            raise KeyboardInterrupt  # a second SIGINT ends a rank at once

    def __call__(self) -> bool:
        return self.signals > 0 or self.file.exists()
