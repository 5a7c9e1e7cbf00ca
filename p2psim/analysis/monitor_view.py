"""Views of `p2psim watch`: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from p2psim.analysis.monitor import RunStatus
from p2psim.analysis.tables import quantity

UNKNOWN = "-"


def cells(status: RunStatus) -> dict[str, str]:
    """Return the text of every cell of a run by label; the labels are always the same."""
    slowest = f"peer {status.done.argmin()}, {status.behind} behind" if status.behind else UNKNOWN
    measured, running = status.measured, not status.over
    return {
        "state": status.state,
        "rounds": f"{status.least:,}/{status.rounds:,}",
        "speed": number(status.speed, "", "/s"),
        "left": duration(status.left) if running else UNKNOWN,
        "training loss": number(status.loss),
        "test": f"{status.primary} {number(measured[status.primary])}" if measured else UNKNOWN,
        "consensus distance": number(measured.get("consensus_distance", np.nan)),
        "sent": number(status.sent, "byte"),
        "traffic": number(status.traffic, "byte", "/s") if running else UNKNOWN,
        "slowest": slowest,
    }


def number(value: float, unit: str = "", per: str = "") -> str:
    """Return value, unit with a prefix that suits it, and `per`, such as "2 kB/s"; "-" for NaN."""
    return UNKNOWN if np.isnan(value) else quantity(value, unit) + per


def duration(seconds: float) -> str:
    """Return seconds as hours:minutes:seconds, or "-" if they are not finite."""
    if not np.isfinite(seconds):
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class PlainView:
    """View that prints one plain line per change, for pipes and files."""

    def __init__(self) -> None:
        self.printed: dict[str, str] = {}  # the last text about each subject

    def runs(self, statuses: list[RunStatus]) -> None:
        """Print a line for every run whose text has changed, and every new failure."""
        for status in statuses:
            known = {label: text for label, text in cells(status).items() if text != UNKNOWN}
            text = ", ".join(f"{label} {text}" for label, text in known.items())
            self.print_change(status.name, f"{status.name}: {text}")
            for failure in status.failures:
                self.print_change(failure, f"! {failure}")

    def notify(self, text: str) -> None:
        """Print a message that belongs to no run, unless it is the same as the last one."""
        self.print_change("", text)

    def print_change(self, subject: str, text: str) -> None:
        """Print the text unless it is the last one that was printed about this subject."""
        if self.printed.get(subject) != text:
            print(text, flush=True)
        self.printed[subject] = text


class LiveView:
    """Table that changes in place: a line per label of one run, or a row per run of a sweep."""

    def __init__(self, live: Live) -> None:
        self.live = live

    def runs(self, statuses: list[RunStatus]) -> None:
        """Draw the runs, and below them the reasons of all failures."""
        failures = [Text(f"! {text}") for status in statuses for text in status.failures]
        table = page(statuses[0]) if len(statuses) == 1 else overview(statuses)
        self.live.update(Group(table, *failures), refresh=True)

    def notify(self, text: str) -> None:
        """Show a message that belongs to no run in place of the table."""
        self.live.update(Text(text), refresh=True)


def page(status: RunStatus) -> Table:
    """Return the table of one run, a line per label."""
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(status.name), ProgressBar(status.rounds, status.least, width=40))
    for label, text in cells(status).items():
        table.add_row(label, Text(text))
    return table


def overview(statuses: list[RunStatus]) -> Table:
    """Return the table of several runs, a row each: the most important cells, a brief state."""
    labels = ("rounds", "speed", "left", "training loss", "test", "sent")
    table = Table("run", "state", *labels, box=None, padding=(0, 2, 0, 0))
    for status in statuses:
        texts = cells(status)
        brief = status.state.partition(" (")[0].partition(",")[0]
        row = [status.name, brief, *(texts[label] for label in labels)]
        table.add_row(*(Text(text, no_wrap=True, overflow="ellipsis") for text in row))
    return table


@contextmanager
def display(live: bool) -> Iterator[PlainView | LiveView]:
    """Yield the view that suits the standard output; `live` = False asks for plain lines."""
    console = Console()
    if live and sys.stdout.isatty() and not console.is_dumb_terminal:
        with Live(console=console, auto_refresh=False) as table:
            yield LiveView(table)
    else:
        yield PlainView()
