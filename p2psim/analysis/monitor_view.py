"""How `p2psim watch` shows runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from p2psim.analysis.monitor import RunStatus
from p2psim.analysis.tables import quantity

UNKNOWN = "-"


def cells(sight: RunStatus) -> dict[str, str]:
    """What there is to say of a run, by label; the labels are always the same."""
    behind = f"peer {sight.done.argmin()}, {sight.behind} behind" if sight.behind else UNKNOWN
    measured, going = sight.measured, not sight.over
    quality = "accuracy" if not np.isnan(measured.get("accuracy", np.nan)) else "loss"
    return {
        "state": sight.state,
        "rounds": f"{sight.least:,}/{sight.rounds:,}",
        "speed": number(sight.speed, "", "/s"),
        "left": duration(sight.left) if going else UNKNOWN,
        "training loss": number(sight.loss),
        "test": f"{quality} {number(measured[quality])}" if measured else UNKNOWN,
        "consensus distance": number(measured.get("consensus_distance", np.nan)),
        "sent": number(sight.sent, "byte"),
        "traffic": number(sight.traffic, "byte", "/s") if going else UNKNOWN,
        "slowest": behind,
    }


def number(value: float, unit: str = "", per: str = "") -> str:
    """A number for people."""
    return UNKNOWN if np.isnan(value) else quantity(value, unit) + per


def duration(seconds: float) -> str:
    """Hours, minutes, seconds."""
    return str(timedelta(seconds=round(seconds))) if np.isfinite(seconds) else UNKNOWN


class PlainView:
    """One plain line per change, for pipes and files."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def runs(self, sights: list[RunStatus]) -> None:
        """A line for every run that is not as it was."""
        for sight in sights:
            known = {label: text for label, text in cells(sight).items() if text != UNKNOWN}
            text = ", ".join(f"{label} {text}" for label, text in known.items())
            self.change(sight.name, f"{sight.name}: {text}")
            for failure in sight.failures:
                self.change(failure, f"! {failure}")

    def say(self, text: str) -> None:
        """Something about no run."""
        self.change("", text)

    def change(self, about: str, text: str) -> None:
        """Print what is new."""
        if self.said.get(about) != text:
            print(text, flush=True)
        self.said[about] = text


class LiveView:
    """A table that changes in place: one run line by line, or the runs of a sweep as rows."""

    def __init__(self, live: Live) -> None:
        self.live = live

    def runs(self, sights: list[RunStatus]) -> None:
        """Draw them."""
        failures = [Text(f"! {text}") for sight in sights for text in sight.failures]
        shown = page(sights[0]) if len(sights) == 1 else overview(sights)
        self.live.update(Group(shown, *failures), refresh=True)

    def say(self, text: str) -> None:
        """Something about no run."""
        self.live.update(Text(text), refresh=True)


def page(sight: RunStatus) -> Table:
    """One run: a line per label."""
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(sight.name), ProgressBar(sight.rounds, sight.least, width=40))
    for label, text in cells(sight).items():
        table.add_row(label, Text(text))
    return table


def overview(sights: list[RunStatus]) -> Table:
    """Several runs: a row each, of what has room there."""
    labels = ("rounds", "speed", "left", "training loss", "test", "sent")
    table = Table("run", "state", *labels, box=None, padding=(0, 2, 0, 0))
    for sight in sights:
        known = cells(sight)
        brief = sight.state.partition(" (")[0].partition(",")[0]
        row = [sight.name, brief, *(known[label] for label in labels)]
        table.add_row(*(Text(text, no_wrap=True, overflow="ellipsis") for text in row))
    return table


@contextmanager
def display(live: bool) -> Iterator[PlainView | LiveView]:
    """What the standard output can show."""
    console = Console()
    if live and sys.stdout.isatty() and not console.is_dumb_terminal:
        with Live(console=console, auto_refresh=False) as table:
            yield LiveView(table)
    else:
        yield PlainView()
