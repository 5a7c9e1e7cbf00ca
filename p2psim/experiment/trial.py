"""Trial of plug-ins before the start: a limit on its time, and checks of what it shows."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Collection, Mapping
from traceback import walk_stack
from types import FrameType, TracebackType
from typing import Any

from p2psim.errors import InputError, location, notice, quoted

NOTICE = 10.0  # seconds without progress until a note


class Trial:
    """Block that ends by InputError after `patience` seconds without a call of `progress`.

    A note on stderr precedes the end. Signals reach the main thread only: elsewhere there is no
    limit. Calls of `breakpoint` are ignored in the block: they are meant for the run.
    """

    def __init__(self, patience: float, action: str, plugin: str) -> None:
        """Name the action that is tried and the plug-in that does it, for the messages."""
        self.action, self.plugin = action, plugin
        self.patience, self.since = patience, time.monotonic()
        self.on = threading.current_thread() is threading.main_thread()
        self.handler: Any = None  # of the caller, as the next two
        self.breakpoint = sys.breakpointhook
        self.timer = (0.0, 0.0)

    def __enter__(self) -> Trial:
        sys.breakpointhook = lambda *arguments, **options: None
        if self.on:
            period = min(NOTICE, self.patience)
            self.handler = signal.signal(signal.SIGALRM, self.check)
            self.timer = signal.setitimer(signal.ITIMER_REAL, period, period)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        sys.breakpointhook = self.breakpoint
        if self.on:
            signal.setitimer(signal.ITIMER_REAL, *self.timer)
            signal.signal(signal.SIGALRM, self.handler)

    def progress(self) -> None:
        """Note that the trial makes progress."""
        self.since = time.monotonic()

    def check(self, number: int, frame: FrameType | None) -> None:
        """Print a note or raise InputError if the trial has made no progress for too long."""
        waited = time.monotonic() - self.since
        if waited >= self.patience:
            raise InputError(
                f"{self.action} was tried before the start, and has made no progress for "
                f"{waited:.0f} s; correct {self.plugin}, or give a larger run.patience"
            )
        if NOTICE <= waited < 2 * NOTICE:
            place = location(walk_stack(frame))
            notice(
                f"{self.action} is tried before the start, and has made no progress "
                f"for {waited:.0f} s{f' ({place})' * bool(place)}; the trial ends after "
                f"{self.patience:.0f} s (run.patience)"
            )


def check_names(metrics: Any, where: str, reserved: Collection[str] = ()) -> None:
    """Check that metrics are a dict whose keys can name datasets; InputError otherwise."""
    if not isinstance(metrics, Mapping):
        raise InputError(f"{where} = {quoted(metrics)}; give a dict by name")
    for name in metrics:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(f"{where}: {name!r} is no name; give letters, digits, '_' and '-'")
        if name in reserved or name.startswith("mean_model_"):
            raise InputError(f"{where}: the name {name!r} is taken; choose another name")
