"""Recorder of one peer, which writes the peer's rows into the peer's own HDF5 file.

All sizes are known at the start. So the file is created at its full size, with fill values, and
then mapped into memory: to record a row is an assignment that needs neither a buffer nor a flush.
Other processes on the node see the row at once, and it survives a crash of the peer.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import socket
import time
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from p2psim.errors import PeerError
from p2psim.experiment.scenario import Scenario
from p2psim.simulation.run_file import atomic_hdf5, lost, new_hdf5
from p2psim.simulation.run_format import (
    PHASES,
    STATUS,
    TRAIN,
    data_bytes,
    fill_value,
    layout,
    peer_file,
)

FLUSH_SECONDS = 5.0  # between two flushes of the file, which come with an evaluation
KEPT = 1 << 20  # bytes of the largest file without rows that is kept for the peers to come
Datasets: TypeAlias = tuple[tuple[str, tuple[int, ...], str], ...]  # path, shape, type


class Recorder:
    """The file of one peer. `columns` maps the path of each dataset to its array in the file.

    `run` is the identifier of the run. With `resume` the recorder continues the file of the
    interrupted run.
    """

    def __init__(
        self, folder: Path, scenario: Scenario, rank: int, run: str, resume: bool = False
    ) -> None:
        """Create or open the file in a run folder that has a run.h5; OSError if that fails."""
        self.path = folder / peer_file(rank)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        specs = datasets(scenario)
        owner = {"rank": rank, "host": socket.gethostname(), "pid": os.getpid(), "run": run}
        owner["samples"] = len(scenario.parts[rank])
        content, offsets = (None, []) if resume else empty_file(specs)
        with atomic_hdf5(self.path, content) as file:
            file.attrs.update(owner)
            if resume:
                for name in {"failure", "released"} & file.attrs.keys():
                    del file.attrs[name]
                offsets = create_datasets(file, specs)
        with open(self.path, "r+b") as opened:
            self.map = mmap.mmap(opened.fileno(), 0)
            self.inode = inode(os.fstat(opened.fileno()))
        if hasattr(mmap, "MADV_RANDOM"):
            # Rows are only written: reading ahead around them would be useless.
            self.map.madvise(mmap.MADV_RANDOM)
        self.columns: dict[str, Any] = {
            path: np.ndarray(shape, kind, self.map, offset)
            for (path, shape, kind), offset in zip(specs, offsets, strict=True)
        }
        self.train_columns = {name: self.columns[f"train/{name}"] for name in TRAIN}
        self.status = {name: self.columns[f"now/{name}"] for name in STATUS}
        self.status["failure"][()] = b""
        self.waits = True  # for other peers; the file of an interrupted run may say so
        self.rounds, self.rows, self.flushed = 0, 0, time.monotonic()
        self.every = scenario.experiment.eval.alignment  # rows of /eval for one of /alignment

    def check_file(self) -> None:
        """Check that the file is still at its path; PeerError otherwise."""
        with contextlib.suppress(OSError):
            if inode(os.stat(self.path)) == self.inode:
                return
        raise PeerError(lost(self.path.parent.parent))

    def state(self) -> dict[str, int]:
        """Return the numbers of rows in /train and /eval."""
        return {"rounds": self.rounds, "rows": self.rows}

    def restore(self, state: dict[str, int]) -> None:
        """Erase all rows that were recorded after a state."""
        self.rounds, self.rows = rounds, rows = state["rounds"], state["rows"]
        lengths = {"train": rounds, "algorithm": rounds, "eval": rows, "final": 0}
        lengths["alignment"] = -(-rows // self.every) if self.every else 0
        for path, column in self.columns.items():
            group = path.partition("/")[0]
            if group in lengths:
                column[lengths[group] :] = fill_value(column.dtype.kind)

    def keep_rows(self, count: int) -> None:
        """Erase all rows of /eval but the first `count`."""
        self.restore({"rounds": self.rounds, "rows": min(self.rows, count)})

    def set_phase(self, phase: str, round_: int) -> None:
        """Record that the peer begins a phase, and that it waits for no other peer."""
        self.status["phase"][()] = phase.encode()
        self.status["round"][()] = round_
        self.alive()
        if self.waits:
            self.waits = False
            self.status["waits"][()] = 0.0

    def alive(self) -> None:
        """Record that the peer has made progress within its phase."""
        self.status["since"][()] = time.time()

    def waiting(self, since: float, others: list[int]) -> None:
        """Record that the peer has waited for the ranks `others` since `since`.

        `since` is a Unix time; 0.0 means that the peer does not wait.
        """
        column, self.waits = self.status["waits_for"], True
        column[:] = [*others, *[-1] * column.size][: column.size]
        self.status["waits"][()] = since
        self.map.flush()  # peers on other nodes may read the status

    def fail(self, text: str) -> None:
        """Record the reason of this peer's failure in a place that a full disk has left for it."""
        column = self.status["failure"]
        column[...] = text.encode()[: column.dtype.itemsize]

    def train(self, round_: int, **values: Any) -> None:
        """Record the row of a round (from 1) in /train."""
        for name, value in values.items():
            self.train_columns[name][round_ - 1] = value
        # Readers take a row as complete once its round is set, so the round comes last.
        self.train_columns["round"][round_ - 1] = round_
        self.rounds = round_

    def seconds_per_round(self) -> float:
        """Return the mean real time of a round so far; infinity before the first is complete."""
        return self.columns["train/wall"][self.rounds - 1] / self.rounds if self.rounds else np.inf

    def algorithm_metric(self, round_: int, name: str, value: float) -> None:
        """Record a metric of the algorithm's own, of a round (from 1), in /algorithm."""
        self.columns[f"algorithm/{name}"][round_ - 1] = value

    def evaluation(self, round_: int, phase: str, **values: Any) -> None:
        """Record the next row of /eval."""
        for name, value in {"phase": PHASES.index(phase), **values, "round": round_}.items():
            self.columns[f"eval/{name}"][self.rows] = value
        self.rows += 1
        # The rows survive a crash of this process; other nodes, and a crash of this node, need
        # them on the disk.
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def alignment(self, round_: int, phase: str, cosines: Any) -> None:
        """Record the row of /alignment that belongs to the last row of /eval."""
        row = (self.rows - 1) // self.every
        values = {"phase": PHASES.index(phase), "cosine": cosines, "round": round_}
        for name, value in values.items():
            self.columns[f"alignment/{name}"][row] = value

    def last_loss(self) -> float:
        """Return the loss of the last row of /eval."""
        return float(self.columns["eval/loss"][self.rows - 1])

    def flush(self) -> None:
        """Write all rows to the disk."""
        self.map.flush()
        self.flushed = time.monotonic()

    def close(self, x: Any) -> None:
        """Record the final vector x, shape (d,), and close the file."""
        self.columns["final/x"][:] = x
        self.columns.clear()
        self.train_columns.clear()
        self.status.clear()
        self.map.flush()
        self.map.close()


def inode(status: os.stat_result) -> tuple[int, int]:
    """Return the numbers by which the system knows a file: device and inode."""
    return status.st_dev, status.st_ino


def datasets(scenario: Scenario) -> Datasets:
    """Return path, shape and type of each dataset in a peer's file.

    The units and meanings of all datasets are in run.h5.
    """
    specs = layout(scenario) | {f"now/{name}": spec for name, spec in STATUS.items()}
    return tuple((path, shape, kind) for path, (shape, kind, _, _) in specs.items())


def empty_file(specs: Datasets) -> tuple[bytes, list[int]]:
    """Return the content of a file without rows, and the offsets of its datasets.

    All peers of a run have the same: a fork server builds it once for them. It is kept, if small.
    """
    size = data_bytes((shape, kind) for _, shape, kind in specs)
    return build_empty_file(specs) if size <= KEPT else build_empty_file.__wrapped__(specs)


@functools.lru_cache(maxsize=1)
def build_empty_file(specs: Datasets) -> tuple[bytes, list[int]]:
    """Build the content and the offsets that `empty_file` returns."""
    with new_hdf5() as file:
        offsets = create_datasets(file, specs)
        return file.id.get_file_image(), offsets


def create_datasets(file: h5py.File, specs: Datasets) -> list[int]:
    """Create all datasets that the file does not have yet; return the offsets of all."""
    created = [create_dataset(file, *spec) for spec in specs]
    file.flush()  # HDF5 assigns the offsets of the datasets only now
    return [dataset.id.get_offset() for dataset in created]


def create_dataset(file: h5py.File, path: str, shape: tuple[int, ...], kind: str) -> h5py.Dataset:
    """Create a dataset of the type `kind`, full of fill values; return it.

    The fill values are written, so that the disk space of every entry is allocated. The rows of an
    earlier dataset at this path are kept, also if the run gets more rounds.
    """
    earlier = file.get(path)
    if earlier is not None and earlier.shape == shape:
        return earlier
    values = np.full(shape, fill_value(kind), kind)
    if earlier is not None:
        values[: len(earlier)] = earlier[...]
        del file[path]
    return file.create_dataset(path, data=values)
