"""Schedule of a peer in virtual time: its work, its waits and its transfers, one row per event.

It has a file of its own, peers/schedule-00007.h5, to which run.h5 links as /schedule/00007. As the
file of the recorder it is mapped into memory, but its final size is unknown, so a full file is
doubled.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from p2psim.network.clock import WORK
from p2psim.simulation.run_file import atomic_hdf5
from p2psim.simulation.run_format import ROW, schedule_file

FIRST = 1024  # rows of a new file
MEANING = (
    "kind: work, wait or transfer; other: the peer that was waited for, or that sent, else -1; "
    "begin and end: virtual seconds; round: from 1, 0 before the first, -1: no event"
)


class EventLog:
    """The events of one peer, in order, each with its round."""

    def __init__(self, folder: Path, rank: int, resume: bool = False) -> None:
        """Create the file; with `resume` continue that of the interrupted run, if it exists."""
        self.path, self.round = folder / schedule_file(rank), 0
        if not resume or not self.path.exists():
            self._write(np.full(FIRST, -1, ROW))
        self._map()
        self.events = int((self.rows["round"] >= 0).sum())

    def begin_round(self, round_: int) -> None:
        """Record the following events under this round."""
        self.round = round_

    def state(self) -> dict[str, int]:
        """Return the number of events."""
        return {"events": self.events}

    def restore(self, state: dict[str, int]) -> None:
        """Erase all events that were recorded after a state."""
        self.events = min(state["events"], self.events)
        self.rows["round"][self.events :] = -1

    def event(self, kind: int, begin: float, end: float, other: int = -1) -> None:
        """Record an event (clock.EventSink); adjoining work in one round is a single event."""
        if kind == WORK and self.events:
            last = self.rows[self.events - 1]
            if (last["kind"], last["end"], last["round"]) == (WORK, begin, self.round):
                last["end"] = end
                return
        if self.events == self.rows.size:
            self._grow()
        self.rows[self.events] = (kind, other, begin, end, self.round)
        self.events += 1

    def flush(self) -> None:
        """Write all events to the disk."""
        self.map.flush()

    def close(self) -> None:
        """Close the file, cut to the events that it holds."""
        rows = self.rows[: self.events].copy()
        self._unmap()
        self._write(rows)

    def _grow(self) -> None:
        rows = np.concatenate([self.rows, np.full(self.rows.size, -1, ROW)])
        self._unmap()
        self._write(rows)
        self._map()

    def _write(self, rows: Any) -> None:
        with atomic_hdf5(self.path, b"") as file:
            dataset = file.create_dataset("schedule", data=rows, dtype=ROW)
            dataset.attrs.update(unit="s", meaning=MEANING)

    def _map(self) -> None:
        with h5py.File(self.path, "r", locking=False) as file:
            size, offset = file["schedule"].size, file["schedule"].id.get_offset()
        with open(self.path, "r+b") as opened:
            self.map = mmap.mmap(opened.fileno(), 0)
        self.rows: Any = np.ndarray(size, ROW, self.map, offset)

    def _unmap(self) -> None:
        del self.rows
        self.map.flush()
        self.map.close()
