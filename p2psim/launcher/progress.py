"""Live progress bar of a run whose ranks are other processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from p2psim.analysis.monitor import Pace

# (rounds that every peer has completed, rounds of the run, mean training loss over the peers)
State = tuple[int, int, float]
HUGE = 1e5  # a loss from here on is printed with an exponent


class Progress:
    """Progress bar with rounds, rounds per second, remaining time and training loss.

    `poll` reads the state from the run folder; it returns None before the first round. Unless
    `shown`, there is no bar and nothing is read.
    """

    def __init__(self, name: str, poll: Callable[[], State | None], shown: bool = True) -> None:
        self.poll, self.pace = poll, Pace(0.2)
        self.first: tuple[float, int] | None = None
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds  {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}"),
            console=Console(stderr=True),
            disable=not shown,
        )
        self.task = self.bar.add_task(name, total=None, rate="starting", loss="-")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pace.next = 0.0  # show the last state, even if the previous update was just before
        self.update()
        self.bar.stop()

    def print(self, text: str) -> None:
        """Print one line above the bar."""
        self.bar.console.print(text, highlight=False)

    def update(self) -> None:
        """Sleep 50 ms, then read and show the state if the last reading was long enough ago."""
        time.sleep(0.05)
        if self.bar.disable or not self.pace.due():
            return
        with self.pace.looking() as now:
            state = self.poll()
            if state:
                self.show(now, *state)

    def show(self, now: float, done: int, total: int, loss: float) -> None:
        """Draw the state: `done` of `total` rounds at monotonic time `now`, mean loss `loss`."""
        self.first = self.first or (now, done)
        elapsed, rounds = now - self.first[0], done - self.first[1]
        rate = f"{rounds / elapsed:.1f}/s" if rounds > 0 else "starting"
        digits = ".4f" if abs(loss) < HUGE else ".3g"
        self.bar.update(self.task, completed=done, total=total, rate=rate, loss=f"{loss:{digits}}")
