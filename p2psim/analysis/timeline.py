"""Timeline of a run: work, waiting and transfers of every peer as a figure; critical path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2psim.analysis import plots, results, tables
from p2psim.errors import InputError
from p2psim.network.clock import TRANSFER, WAIT, WORK

MAX_TRANSFERS = 400  # that are drawn, besides those on the critical path
DEFAULT_ROUNDS = 12  # that are shown without --rounds


class Span(NamedTuple):
    """Part of the critical path: work of `peer`, or a transfer to it from `sender`."""

    peer: int
    begin: float
    end: float
    sender: int = -1  # -1: work


@dataclass
class TimelineWindow:
    """Events of consecutive rounds, by peer, with the times of work and waiting."""

    events: list[NDArray[Any]]
    first: int
    last: int

    def seconds(self, kind: int) -> NDArray[np.float64]:
        """Return the seconds spent in events of this kind, by peer."""
        selected = [rows[rows["kind"] == kind] for rows in self.events]
        return np.array([float((rows["end"] - rows["begin"]).sum()) for rows in selected])

    @property
    def idle(self) -> NDArray[np.float64]:
        """Share of its time that each peer waited."""
        work, wait = self.seconds(WORK), self.seconds(WAIT)
        return np.divide(wait, work + wait, out=np.zeros_like(wait), where=work + wait > 0)

    def critical(self) -> list[Span]:
        """Return the work and transfers that determine the end of the last peer, last one first."""
        ends = [rows["end"][rows["kind"] != TRANSFER].max(initial=0.0) for rows in self.events]
        peer, path = int(np.argmax(ends)), list[Span]()
        moment = ends[peer]
        while (event := self._before(peer, moment)) is not None:
            if event["kind"] == WORK:
                path.append(Span(peer, float(event["begin"]), moment))
                moment = float(event["begin"])
            else:
                sender, sent_at = int(event["other"]), self._sent_at(peer, event)
                path.append(Span(peer, sent_at, moment, sender))
                peer, moment = sender, sent_at
        return path

    def _before(self, peer: int, moment: float) -> Any:
        """Return the event of work or waiting that the peer was in just before this moment."""
        rows = self.events[peer]
        rows = rows[(rows["kind"] != TRANSFER) & (rows["begin"] < moment)]
        return rows[-1] if rows.size else None

    def _sent_at(self, peer: int, wait: Any) -> float:
        """Return when the message that ended this wait was sent."""
        rows = self.events[peer]
        from_sender = (rows["kind"] == TRANSFER) & (rows["other"] == wait["other"])
        rows = rows[from_sender & (rows["end"] == wait["end"])]
        # A transfer that took no time has no row: it was sent at the end of the wait.
        return float(rows["begin"][-1] if rows.size else wait["end"])


def window(path: Path, rounds: str | None) -> TimelineWindow:
    """Return the events of these rounds ("3", or "3:8" with both ends included)."""
    events = results.schedules(path)
    done = max((int(rows["round"].max(initial=0)) for rows in events), default=0)
    first, last = 1, min(done, DEFAULT_ROUNDS)
    if rounds is not None:
        parts = rounds.split(":")
        if len(parts) > 2 or not all(part.isdecimal() for part in parts):
            raise InputError(f"--rounds {rounds}: give one round, or first:last")
        first, last = int(parts[0]), int(parts[-1])
    if not 1 <= first <= last <= done:
        raise InputError(f"--rounds {rounds}: give some of the rounds 1 to {done}, first:last")
    events = [rows[(rows["round"] >= first) & (rows["round"] <= last)] for rows in events]
    return TimelineWindow(events, first, last)


def plot(path: Path, target: Path | None = None, rounds: str | None = None) -> tuple[Path, str]:
    """Draw the timeline of one run; return the file and the numbers as text."""
    target = target or plots.default_target(path).with_name("timeline.png")
    timeline = window(path, rounds)
    plots.save(lambda: draw(timeline, path), target)
    return target, summary(timeline)


def summary(timeline: TimelineWindow) -> str:
    """Return each peer's work, waiting and share of the critical path as a text table."""
    spans = timeline.critical()
    work = sum(span.end - span.begin for span in spans if span.sender < 0)
    rows = [["", "work", "wait", "idle", "on the critical path"]]
    for rank, seconds in enumerate(
        zip(timeline.seconds(WORK), timeline.seconds(WAIT), strict=True)
    ):
        critical = sum(s.end - s.begin for s in spans if s.peer == rank and s.sender < 0)
        share = f"{100 * timeline.idle[rank]:.1f} %"
        rows.append([f"peer {rank}", *(tables.quantity(v, "s") for v in seconds), share])
        rows[-1].append(tables.quantity(critical, "s"))
    total = sum(span.end - span.begin for span in spans)
    head = (
        f"rounds {timeline.first} to {timeline.last}: the critical path takes "
        f"{tables.quantity(total, 's')}, of which {tables.quantity(work, 's')} work and "
        f"{tables.quantity(total - work, 's')} transfers; {100 * timeline.idle.mean():.1f} % idle"
    )
    return f"{head}\n{tables.grid(rows)}"


def draw(timeline: TimelineWindow, path: Path) -> Any:
    """Return the figure: a row per peer, work as bars, waiting hatched, transfers as lines."""
    from matplotlib.figure import Figure

    n = len(timeline.events)
    figure = Figure(figsize=(9, 1.6 + min(0.34 * n, 9)), layout="constrained")
    axes = figure.add_subplot()
    for rank, rows in enumerate(timeline.events):
        draw_bars(axes, rank, rows)
    draw_transfers(axes, timeline.events)
    for span in timeline.critical():
        draw_span(axes, span)
    axes.set(xlabel="virtual time (s)", ylabel="peer", ylim=(n - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    if n <= plots.LABELED:
        axes.set_yticks(range(n))
        idle = [f"{100 * share:.0f} % idle" for share in timeline.idle]
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(n), idle)
        right.spines["right"].set_visible(False)
    name = results.read(path).experiment["name"]
    axes.set_title(f"{name}: rounds {timeline.first} to {timeline.last}")
    add_legend(figure)
    return figure


def draw_bars(axes: Any, rank: int, rows: NDArray[Any]) -> None:
    """Draw work and waiting of one peer."""
    styles = {
        WORK: {"facecolor": plots.COLORS[4], "edgecolor": "white", "linewidth": 0.4},
        WAIT: {"facecolor": "none", "edgecolor": "#B0B0B0", "hatch": "////", "linewidth": 0.0},
    }
    for kind, style in styles.items():
        events = rows[rows["kind"] == kind]
        ranges = list(zip(events["begin"], events["end"] - events["begin"], strict=True))
        axes.broken_barh(ranges, (rank - 0.36, 0.72), **style)


def draw_transfers(axes: Any, events: Sequence[NDArray[Any]]) -> None:
    """Draw messages from peer to peer, unless they are too many to be visible."""
    transfers = [(rank, rows[rows["kind"] == TRANSFER]) for rank, rows in enumerate(events)]
    if sum(rows.size for _, rows in transfers) > MAX_TRANSFERS:
        return
    for rank, rows in transfers:
        for row in rows:
            ends = [row["begin"], row["end"]], [row["other"], rank]
            axes.plot(*ends, color="#78909C", linewidth=0.6, zorder=3)


def draw_span(axes: Any, span: Span) -> None:
    """Draw a part of the critical path: under the bar of work, or from peer to peer."""
    heights = [span.peer + 0.4] * 2 if span.sender < 0 else [span.sender + 0.4, span.peer + 0.4]
    axes.plot([span.begin, span.end], heights, color=plots.COLORS[1], linewidth=1.8, zorder=4)


def add_legend(figure: Any) -> None:
    """Add the legend of work, waiting, transfers and the critical path below the axes."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Patch(facecolor=plots.COLORS[4], label="work"),
        Patch(facecolor="none", edgecolor="#B0B0B0", hatch="////", linewidth=0.0, label="wait"),
        Line2D([], [], color="#78909C", linewidth=0.6, label="transfer"),
        Line2D([], [], color=plots.COLORS[1], linewidth=1.8, label="critical path"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4)
