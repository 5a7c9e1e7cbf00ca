"""Reading runs: progress, summaries, comparisons, and joining one into a single file.

Whatever state a run is in - running, failed, killed, a peer's file lost - it can be read: what
was not recorded is NaN.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from p2psim.errors import InputError
from p2psim.simulation import run_folder
from p2psim.simulation.event_log import ROW

Array: TypeAlias = NDArray[np.float64]
Table: TypeAlias = dict[str, Any]
# Attributes by which HDF5 keeps dimension scales: it writes them itself.
WIRING = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST"}


def run_file(path: Path) -> Path:
    """The file of a run, given as a folder or as the file itself."""
    file = path / "run.h5" if path.is_dir() else path
    inside = ", ".join(repr(str(run)) for run in expand(path)[:3] if run != path)
    if inside:
        raise InputError(f"{str(path)!r} holds several runs: give one of them, such as {inside}")
    if not file.is_file():
        raise InputError(f"{str(path)!r} is no run: give a run folder, or its run.h5")
    return file


def expand(path: Path) -> list[Path]:
    """The runs of a sweep's folder, by name; of anything else itself."""
    inside = sorted(file.parent for file in path.glob("*/run.h5")) if path.is_dir() else []
    return inside if inside and not (path / "run.h5").exists() else [path]


def open_run(path: Path) -> h5py.File:
    """The run opened for reading, also while it is being written."""
    try:
        file = h5py.File(run_file(path), "r", locking=False)
    except OSError as error:
        cause = f"{str(path)!r} cannot be read as a run ({error})"
        raise InputError(f"{cause}: give a run folder, or its run.h5") from None
    if "experiment" not in file.attrs or "train/round" not in file:
        file.close()
        raise InputError(f"{str(path)!r} is no run.h5: give a run folder, or its run.h5")
    return file


def column(file: h5py.File, path: str, *rows: slice) -> NDArray[Any]:
    """A whole dataset, or these rows of every peer; see `part`."""
    return part(file[path], *rows)


def part(dataset: h5py.Dataset, *rows: slice) -> NDArray[Any]:
    """These rows of every peer; NaN or -1 for a peer whose file cannot be read."""
    try:
        values: NDArray[Any] = dataset[(slice(None), *rows)]
    except OSError:  # as while that file is created
        empty = np.broadcast_to(np.asarray(dataset.fillvalue, dataset.dtype), dataset.shape)
        values = empty[(slice(None), *rows)].copy()
        for rank in range(len(values)):
            with contextlib.suppress(OSError):
                values[rank] = dataset[(rank, *rows)]
    return values


def recorded(file: h5py.File, group: str) -> NDArray[np.int64]:
    """How many rows of /train or /eval each peer has, found without reading them all.

    A peer fills its rows in order, so it is enough to look where the slowest and where the
    fastest end: some 30 reads of a row, and the rows between the two.
    """
    # Held while it is read again and again: with it HDF5 would close all peers' files.
    dataset = file[f"{group}/round"]
    rows = range(dataset.shape[1])

    def there(first: int, stop: int) -> NDArray[np.bool_]:
        return part(dataset, slice(first, stop)) >= 0

    low = bisect.bisect_left(rows, True, key=lambda row: not there(row, row + 1).all())
    high = bisect.bisect_left(rows, True, low, key=lambda row: not there(row, row + 1).any())
    counted: NDArray[np.int64] = low + there(low, high).sum(axis=1)
    return counted


def numbers(file: h5py.File, path: str) -> Array:
    """A whole dataset as floats, NaN where nothing was recorded."""
    values = column(file, path)
    missing = values == -1 if values.dtype.kind == "i" else np.isnan(values)
    return np.where(missing, np.nan, values.astype(np.float64))


def progress(folder: Path) -> tuple[int, int, float] | None:
    """(rounds that every peer has completed, of how many, mean loss), None before the start."""
    try:
        opened = open_run(folder)
    except InputError:
        return None  # not there yet, or being written at this moment
    with opened as file:
        done = int(recorded(file, "train").min())
        losses = column(file, "train/loss", slice(done - 1, done)) if done else np.empty(0)
        known = losses[~np.isnan(losses)]  # a straggler may have none in this round
        loss = known.mean() if known.size else np.nan
        return done, file["train/round"].shape[1], float(loss)


def failures(folder: Path) -> list[str]:
    """What the peers that failed left as their reason."""
    texts = []
    for path in sorted(folder.glob("peers/peer-*.h5")):
        attributes = run_folder.peer_attributes(path)
        texts += [str(attributes["failure"])] if "failure" in attributes else []
    return texts


@dataclass
class Run:
    """What a run recorded. Arrays have the file's shapes (n, rounds) and (n, rows)."""

    path: Path  # as given
    attributes: Table
    experiment: Table
    weights: Array
    train: dict[str, Array]
    eval: dict[str, Array]
    own: dict[str, Array]  # what the algorithm recorded itself, (n, rounds)
    cost: dict[str, Any]  # see accounting.Account; none where the model does not tell
    members: list[Table]  # attributes of the peers' files; none in a joined file

    @property
    def done(self) -> NDArray[np.int64]:
        """Rounds completed, by peer."""
        made: NDArray[np.int64] = np.isfinite(self.train["round"]).sum(axis=1)
        return made

    @property
    def measure(self) -> str:
        """What tells how good a model is: accuracy, or loss where there are no classes."""
        rows = np.isfinite(self.eval["round"]).any()
        return "loss" if rows and np.isnan(self.eval["accuracy"]).all() else "accuracy"

    @property
    def precision(self) -> str:
        """What gradients were computed in."""
        return str(self.experiment["learning"].get("precision", "fp32"))

    @property
    def timed(self) -> bool:
        """Whether virtual time passed."""
        return bool(np.nanmax(self.train["time"], initial=0) > 0)

    def rows(self, phase: int) -> NDArray[np.int64]:
        """The rows of /eval after this phase that all peers still alive have recorded."""
        there = np.isfinite(self.eval["round"])
        complete = there[there.any(axis=1)].all(axis=0)
        return np.flatnonzero(complete & (self.eval["phase"] == phase).any(axis=0))

    def last(self, name: str) -> Array:
        """The last recorded value of a column of /train, by peer."""
        values, done = self.train[name], self.done
        return np.where(done > 0, values[np.arange(len(done)), done - 1], np.nan)

    @property
    def failures(self) -> list[str]:
        """The reasons that failed peers left."""
        return reasons(self.members, self.attributes)

    @property
    def lost(self) -> list[str]:
        """Peers of which nothing can be shown, and why."""
        whys = {rank: member.get("lost") for rank, member in enumerate(self.members)}
        return [
            f"peer {rank}: {whys.get(rank) or 'no round recorded'}"
            for rank, done in enumerate(self.done)
            if not done or whys.get(rank)
        ]

    @property
    def state(self) -> str:
        """The status in words, and how far the run came if not to the end."""
        return state(
            self.attributes["status"], self.members, self.done, self.train["round"].shape[1]
        )


def state(status: str, members: list[Table], done: NDArray[np.int64], rounds: int) -> str:
    """A run's status in words, and how far it came if not to the end."""
    if status == "done" and done.min() == rounds:
        return "done"
    started = [member for member in members if "pid" in member]
    if status == "running" and started and not any(map(run_folder.alive, started)):
        status = "killed, none of its processes is alive"
    elif status == "running" and not members:
        status = "running when it was joined"
    low, high = done.min(), done.max()
    return f"{status} (rounds {low}{f' to {high}' if high > low else ''} of {rounds})"


def reasons(members: list[Table], attributes: Table) -> list[str]:
    """Why peers failed: from their files, or from the joined one."""
    left = [str(member["failure"]) for member in members if "failure" in member]
    return left or [str(text) for text in attributes.get("failures", [])]


def read(path: Path) -> Run:
    """A run, given as its folder, run.h5 or joined file; InputError if it is none."""
    with open_run(path) as file:
        return Run(
            path=path,
            attributes=dict(file.attrs),
            experiment=tomllib.loads(file.attrs["experiment"]),
            weights=column(file, "topology/weights"),
            train={name: numbers(file, f"train/{name}") for name in file["train"]},
            eval={name: numbers(file, f"eval/{name}") for name in file["eval"]},
            own={
                name: numbers(file, f"algorithm/{name}")
                for name, dataset in file.get("algorithm", {}).items()
                if not dataset.is_scale
            },
            cost={name: dataset[()] for name, dataset in file.get("cost", {}).items()},
            members=members(file),
        )


def schedules(path: Path) -> list[NDArray[Any]]:
    """Every peer's events so far (see schedule.ROW), by rank; InputError where there are none."""
    with open_run(path) as file:
        if "schedule" in file:
            return [events(file, rank) for rank in range(file.attrs["peers"])]
    raise InputError(
        f"{str(path)!r} has no schedule: virtual time stood still, or time.schedule was false"
    )


def events(file: h5py.File, rank: int) -> NDArray[Any]:
    """The events of one peer; none where its file is not there."""
    try:
        rows: NDArray[Any] = file[f"schedule/{rank:05d}"][...]
    except (KeyError, OSError):  # while it grows, the old file is gone for a moment
        rows = np.empty(0, ROW)
    return rows[rows["round"] >= 0]


def members(file: h5py.File) -> list[Table]:
    """Attributes of the files of all peers, by rank; none of a joined file."""
    joint, here = file["train/round"], Path(file.filename).parent
    sources = joint.virtual_sources() if joint.is_virtual else []
    return [run_folder.peer_attributes(here / source.file_name) for source in sources]


def join(path: Path, target: Path | None = None, force: bool = False) -> Path:
    """Write the run as one self-contained file of equal content (default: RUN/joined.h5)."""
    origin = run_file(path)
    target = target or origin.parent / "joined.h5"
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {str(target.parent)!r}: give another --to")
    if target.exists() and (not force or target.is_dir() or target.samefile(origin)):
        cure = "" if force or target.is_dir() else ", or --force to replace it"
        raise InputError(f"{str(target)!r} exists: give another file with --to{cure}")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    reasons = read(path).failures
    try:
        with open_run(path) as source, h5py.File(partial, "w", locking=False) as made:
            copy(source, made)
            made.attrs.update({"failures": reasons} if reasons else {})
        partial.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r} ({error}); give another --to") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def copy(source: h5py.File, target: h5py.File) -> None:
    """Everything of `source`, with plain datasets for virtual ones."""
    target.attrs.update(source.attrs)
    for rank in range(len(source.get("schedule", ()))):
        target.create_dataset(f"schedule/{rank:05d}", data=events(source, rank))
    groups = [group for name, group in source.items() if name != "schedule"]
    found = [dataset for group in groups for dataset in group.values()]
    for dataset in found:
        made = target.create_dataset(
            dataset.name, dataset.shape, dataset.dtype, fillvalue=dataset.fillvalue
        )
        for part in range(len(dataset)) if dataset.is_virtual else [...]:
            with contextlib.suppress(OSError):  # a peer's file that cannot be read
                made[part] = dataset[part]
        if dataset.is_scale:
            made.make_scale(dataset.name.rpartition("/")[2])
        made.attrs.update({k: v for k, v in dataset.attrs.items() if k not in WIRING})
    for dataset in found:
        for axis, dimension in enumerate(dataset.dims):
            for scale in dimension.values():
                target[dataset.name].dims[axis].attach_scale(target[scale.name])
