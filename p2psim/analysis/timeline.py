"""Who worked, waited and received when: a run's schedule as a figure, and its critical path."""

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

ARROWS = 400  # transfers that are drawn at most, the critical ones apart
SHOWN = 12  # rounds that are shown if nothing is said


class Span(NamedTuple):
    """A piece of the critical path: `peer` works, or a message travels to it from `sender`."""

    peer: int
    begin: float
    end: float
    sender: int = -1


@dataclass
class TimelineWindow:
    """The events of a window of rounds, by peer, and how long each peer worked and waited."""

    events: list[NDArray[Any]]
    first: int
    last: int

    def seconds(self, kind: int) -> NDArray[np.float64]:
        """Seconds of this kind, by peer."""
        each = [own[own["kind"] == kind] for own in self.events]
        return np.array([float((own["end"] - own["begin"]).sum()) for own in each])

    @property
    def idle(self) -> NDArray[np.float64]:
        """Share of its time that each peer waited."""
        work, wait = self.seconds(WORK), self.seconds(WAIT)
        return np.divide(wait, work + wait, out=np.zeros_like(wait), where=work + wait > 0)

    def critical(self) -> list[Span]:
        """What determined when the last peer was ready, from the end back to the beginning."""
        ends = [own["end"][own["kind"] != TRANSFER].max(initial=0.0) for own in self.events]
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
        """The event of work or waiting that this peer was in just before this moment."""
        own = self.events[peer]
        own = own[(own["kind"] != TRANSFER) & (own["begin"] < moment)]
        return own[-1] if own.size else None

    def _sent_at(self, peer: int, wait: Any) -> float:
        """When the message that ended this wait set out; its end, if it took no time."""
        own = self.events[peer]
        fits = (own["kind"] == TRANSFER) & (own["other"] == wait["other"])
        own = own[fits & (own["end"] == wait["end"])]
        return float(own["begin"][-1] if own.size else wait["end"])


def window(path: Path, rounds: str | None) -> TimelineWindow:
    """The schedule of these rounds ("3" or "3:8", both ends included)."""
    events = results.schedules(path)
    done = max((int(own["round"].max(initial=0)) for own in events), default=0)
    first, last = 1, min(done, SHOWN)
    if rounds is not None:
        parts = rounds.split(":")
        if len(parts) > 2 or not all(part.isdecimal() for part in parts):
            raise InputError(f"--rounds {rounds}: give one round, or first:last")
        first, last = int(parts[0]), int(parts[-1])
    if not 1 <= first <= last <= done:
        raise InputError(f"--rounds {rounds}: give some of the rounds 1 to {done}, first:last")
    inside = [own[(own["round"] >= first) & (own["round"] <= last)] for own in events]
    return TimelineWindow(inside, first, last)


def plot(path: Path, target: Path | None = None, rounds: str | None = None) -> tuple[Path, str]:
    """Draw the timeline of one run; (the file, its numbers in words)."""
    target = target or plots.default_target(path).with_name("timeline.png")
    schedule = window(path, rounds)
    plots.save(lambda: draw(schedule, path), target)
    return target, words(schedule)


def words(schedule: TimelineWindow) -> str:
    """How idle the peers were and what the critical path is made of."""
    spans = schedule.critical()
    work = sum(span.end - span.begin for span in spans if span.sender < 0)
    rows = [["", "work", "wait", "idle", "on the critical path"]]
    for rank, (own, other) in enumerate(
        zip(schedule.seconds(WORK), schedule.seconds(WAIT), strict=True)
    ):
        critical = sum(s.end - s.begin for s in spans if s.peer == rank and s.sender < 0)
        share = f"{100 * schedule.idle[rank]:.1f} %"
        rows.append([f"peer {rank}", *(tables.quantity(v, "s") for v in (own, other)), share])
        rows[-1].append(tables.quantity(critical, "s"))
    total = sum(span.end - span.begin for span in spans)
    head = (
        f"rounds {schedule.first} to {schedule.last}: the critical path takes "
        f"{tables.quantity(total, 's')}, of which {tables.quantity(work, 's')} work and "
        f"{tables.quantity(total - work, 's')} transfers; {100 * schedule.idle.mean():.1f} % idle"
    )
    return f"{head}\n{tables.grid(rows)}"


def draw(schedule: TimelineWindow, path: Path) -> Any:
    """A row for each peer: work as bars, waiting as hatching, transfers as arrows."""
    from matplotlib.figure import Figure

    n = len(schedule.events)
    figure = Figure(figsize=(9, 1.6 + min(0.34 * n, 9)), layout="constrained")
    axes = figure.add_subplot()
    for rank, own in enumerate(schedule.events):
        bars(axes, rank, own)
    spans = schedule.critical()
    flights(axes, schedule.events)
    for span in spans:
        follow(axes, span)
    axes.set(xlabel="virtual time (s)", ylabel="peer", ylim=(n - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    if n <= plots.LABELED:
        axes.set_yticks(range(n))
        idle = [f"{100 * share:.0f} % idle" for share in schedule.idle]
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(range(n), idle)
        beside.spines["right"].set_visible(False)
    name = results.read(path).experiment["name"]
    axes.set_title(f"{name}: rounds {schedule.first} to {schedule.last}")
    key(figure)
    return figure


def bars(axes: Any, rank: int, own: NDArray[Any]) -> None:
    """Work and waiting of one peer."""
    looks = {
        WORK: {"facecolor": plots.COLORS[4], "edgecolor": "white", "linewidth": 0.4},
        WAIT: {"facecolor": "none", "edgecolor": "#B0B0B0", "hatch": "////", "linewidth": 0.0},
    }
    for kind, look in looks.items():
        some = own[own["kind"] == kind]
        pieces = list(zip(some["begin"], some["end"] - some["begin"], strict=True))
        axes.broken_barh(pieces, (rank - 0.36, 0.72), **look)


def flights(axes: Any, events: Sequence[NDArray[Any]]) -> None:
    """Messages from peer to peer, unless they are too many to see."""
    moved = [(rank, own[own["kind"] == TRANSFER]) for rank, own in enumerate(events)]
    if sum(own.size for _, own in moved) > ARROWS:
        return
    for rank, own in moved:
        for row in own:
            ends = [row["begin"], row["end"]], [row["other"], rank]
            axes.plot(*ends, color="#78909C", linewidth=0.6, zorder=3)


def follow(axes: Any, span: Span) -> None:
    """A piece of the critical path: under the work bar, or from peer to peer."""
    heights = [span.peer + 0.4] * 2 if span.sender < 0 else [span.sender + 0.4, span.peer + 0.4]
    axes.plot([span.begin, span.end], heights, color=plots.COLORS[1], linewidth=1.8, zorder=4)


def key(figure: Any) -> None:
    """What the looks mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Patch(facecolor=plots.COLORS[4], label="work"),
        Patch(facecolor="none", edgecolor="#B0B0B0", hatch="////", linewidth=0.0, label="wait"),
        Line2D([], [], color="#78909C", linewidth=0.6, label="transfer"),
        Line2D([], [], color=plots.COLORS[1], linewidth=1.8, label="critical path"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4)
