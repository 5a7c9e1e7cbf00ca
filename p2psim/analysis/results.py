"""Access to recorded runs: read a run, its progress and failures, or join it into one file.

A run can be read in any state: running, failed, killed, or with a peer's file lost. Values that
were not recorded are NaN.
"""

from __future__ import annotations

import bisect
import contextlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from p2psim import memory
from p2psim.errors import InputError
from p2psim.simulation import run_folder
from p2psim.simulation.join import events_of
from p2psim.simulation.run_format import COMPLETE

Array: TypeAlias = NDArray[np.float64]
Table: TypeAlias = dict[str, Any]
CLASS_METRICS = ("accuracy", "seen_accuracy", "unseen_accuracy")  # of version 0.1
LISTED = 8  # ranks of peers in a message


def run_path(path: Path) -> Path:
    """Return the file of a run, for its folder or the file itself. InputError if there is none."""
    file = path / "run.h5" if path.is_dir() else path
    runs = ", ".join(repr(str(run)) for run in expand(path)[:3] if run != path)
    if runs:
        raise InputError(f"{str(path)!r} holds several runs: give one of them, such as {runs}")
    if not file.is_file():
        raise InputError(f"{str(path)!r} is no run: give a run folder, or its run.h5")
    return file


def expand(path: Path) -> list[Path]:
    """Return the runs of a sweep's folder, sorted by name; [path] for any other path."""
    runs = sorted(file.parent for file in path.glob("*/run.h5")) if path.is_dir() else []
    return runs if runs and not (path / "run.h5").exists() else [path]


@contextlib.contextmanager
def damage(path: Path) -> Iterator[None]:
    """Raise an InputError for an error in this block, which reads the run at `path`.

    The block depends on the content of files alone: a file that is not as p2psim writes it (links
    in a circle, a giant size in a header, an attribute of another type) raises errors of any type.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        cause = f"{str(path)!r} cannot be read as a run ({error})".replace("\n", " ")
        raise InputError(f"{cause}: give a run folder, or its run.h5") from None
    except MemoryError as error:
        raise InputError(f"{str(path)!r} does not fit the memory ({error}): give another") from None


def open_run(path: Path) -> h5py.File:
    """Open a run for reading, even while it is being written. InputError if it is not a run."""
    with damage(path):
        file = h5py.File(run_path(path), "r", locking=False)
        try:
            if "experiment" in file.attrs and "train/round" in file:
                check_attributes(file.attrs)
                return file
        except BaseException:
            file.close()
            raise
    file.close()
    raise InputError(f"{str(path)!r} is no run.h5: give a run folder, or its run.h5")


def check_attributes(attributes: h5py.AttributeManager) -> None:
    """Check the attributes that every reader of a run uses; ValueError, or KeyError, otherwise."""
    for name, kind in (("experiment", str), ("status", str), ("peers", int), ("parameters", int)):
        value = attributes[name]
        if not isinstance(value, kind if kind is str else np.integer):
            raise ValueError(f"its attribute {name!r} is {value!r}")
        if isinstance(value, str):
            value.encode()  # UnicodeEncodeError, a ValueError, if it is not UTF-8
    experiment = tomllib.loads(attributes["experiment"])
    for name in ("algorithm", "data", "eval", "learning", "topology"):
        if not isinstance(experiment.get(name), dict):
            raise ValueError(f"its experiment has no section {name!r}")


def column(file: h5py.File, path: str, *rows: slice) -> NDArray[Any]:
    """Return a whole dataset, or these rows of every peer; see `part`."""
    return part(file[path], *rows)


def part(dataset: h5py.Dataset, *rows: slice) -> NDArray[Any]:
    """Return these rows of every peer; NaN or -1 for a peer whose file cannot be read."""
    try:
        values: NDArray[Any] = dataset[(slice(None), *rows)]
    except OSError:  # for instance while a peer's file is being created
        empty = np.broadcast_to(np.asarray(dataset.fillvalue, dataset.dtype), dataset.shape)
        values = empty[(slice(None), *rows)].copy()
        for rank in range(len(values)):
            with contextlib.suppress(OSError):
                values[rank] = dataset[(rank, *rows)]
    return values


def recorded(file: h5py.File, group: str) -> NDArray[np.int64]:
    """Return the number of rows of /train or /eval that each peer has written, shape (n,).

    A peer writes its rows in order, so bisection finds the last row of the slowest and of the
    fastest peer: about 30 reads of one row, and one of the rows between the two.
    """
    # One object for all reads: when it is released, HDF5 closes the files of all peers.
    dataset = file[f"{group}/round"]
    rows = range(dataset.shape[1])

    def written(first: int, stop: int) -> NDArray[np.bool_]:
        return part(dataset, slice(first, stop)) >= 0

    low = bisect.bisect_left(rows, True, key=lambda row: not written(row, row + 1).all())
    high = bisect.bisect_left(rows, True, low, key=lambda row: not written(row, row + 1).any())
    counts: NDArray[np.int64] = low + written(low, high).sum(axis=1)
    return counts


def numbers(file: h5py.File, path: str) -> Array:
    """Return a whole dataset as float64, NaN where nothing was recorded."""
    memory.check(file[path].nbytes, f"{path} of {file.filename!r}", "read it on another machine")
    values = column(file, path)
    missing = values == -1 if values.dtype.kind == "i" else np.isnan(values)
    return np.where(missing, np.nan, values.astype(np.float64))


def progress(folder: Path) -> tuple[int, int, float] | None:
    """Return (rounds completed by every peer, all rounds, mean loss); None before the start."""
    try:
        opened = open_run(folder)
    except InputError:
        return None  # not created yet, or being created at this moment
    with opened as file:
        done = int(recorded(file, "train").min())
        losses = column(file, "train/loss", slice(done - 1, done)) if done else np.empty(0)
        losses = losses[~np.isnan(losses)]  # a straggler may have computed none in this round
        loss = losses.mean() if losses.size else np.nan
        return done, file["train/round"].shape[1], float(loss)


def failures(folder: Path) -> list[str]:
    """Return the reasons that failed peers have written into their files."""
    files = sorted(folder.glob("peers/peer-*.h5"))
    return reasons([run_folder.peer_attributes(file) for file in files], {})


@dataclass
class Run:
    """Record of a run. Arrays have the file's shapes: (n, rounds) in train, (n, rows) in eval."""

    path: Path  # as the user gave it
    attributes: Table
    experiment: Table
    weights: Array
    train: dict[str, Array]
    eval: dict[str, Array]
    better: dict[str, str]  # "higher" or "lower", by column of /eval
    own: dict[str, Array]  # the algorithm's own metrics, (n, rounds)
    alignment: dict[str, Array]  # of the gradients, (n, rows) and (n, rows, weights), or empty
    cost: dict[str, Any]  # fields of cost_model.Account; empty if the model has no cost
    members: list[Table]  # attributes of the peers' files; empty for a joined file

    @property
    def done(self) -> NDArray[np.int64]:
        """Rounds completed, by peer."""
        counts: NDArray[np.int64] = np.isfinite(self.train["round"]).sum(axis=1)
        return counts

    @property
    def metrics(self) -> list[str]:
        """Columns of /eval that the task measures, one number a row; the primary one first."""
        names = [str(name) for name in self.attributes.get("metrics", CLASS_METRICS)]
        return [name for name in names if name in self.eval and self.eval[name].ndim == 2]

    @property
    def primary(self) -> str:
        """Column of /eval that measures a model first of all; the loss in a task without metrics.

        Runs of version 0.1 do not name it: they are measured by accuracy where it is recorded.
        """
        if "primary" in self.attributes:
            return str(self.attributes["primary"])
        return primary_of_old_run(self.eval["accuracy"], self.eval["round"])

    @property
    def precision(self) -> str:
        """Precision in which gradients were computed."""
        return str(self.experiment["learning"].get("precision", "fp32"))

    @property
    def timed(self) -> bool:
        """True if virtual time passed."""
        return bool(np.nanmax(self.train["time"], initial=0) > 0)

    def rows(self, phase: int) -> NDArray[np.int64]:
        """Return the rows of /eval after this phase that all peers have, shape (rows,).

        A peer without any row does not count: its file is lost, or it has just begun.
        """
        recorded = np.isfinite(self.eval["round"])
        complete = recorded[recorded.any(axis=1)].all(axis=0)
        return np.flatnonzero(complete & (self.eval["phase"] == phase).any(axis=0))

    def aligned_rows(self) -> NDArray[np.int64]:
        """Return the rows of /alignment that all peers have, shape (rows,).

        Where models are measured after local steps and after consensus, only the latter count.
        """
        recorded = np.isfinite(self.alignment["round"]).all(axis=0)
        phases = self.alignment["phase"].max(axis=0)
        return np.flatnonzero(recorded & (phases == phases[recorded].max(initial=0)))

    def at_best_validation(self, phase: int) -> Array:
        """Return the primary metric where that of the validation samples is best, by peer.

        The first of equally good evaluations after this phase counts. NaN for a peer without one.
        """
        rows = self.rows(phase)
        validation = self.eval[f"validation_{self.primary}"][:, rows]
        if self.better[self.primary] == "lower":
            validation = -validation
        worst = np.where(np.isnan(validation), -np.inf, validation)
        if not rows.size:
            return np.full(len(worst), np.nan)
        best = rows[worst.argmax(axis=1)]
        values: Array = self.eval[self.primary][np.arange(len(best)), best]
        return values

    def last(self, name: str) -> Array:
        """Return the last recorded value of a column of /train, by peer; NaN if there is none."""
        values, done = self.train[name], self.done
        return np.where(done > 0, values[np.arange(len(done)), done - 1], np.nan)

    @property
    def failures(self) -> list[str]:
        """Reasons of failed peers."""
        return reasons(self.members, self.attributes)

    @property
    def lost(self) -> list[str]:
        """Peers without records, each with the reason."""
        causes = {rank: member.get("lost") for rank, member in enumerate(self.members)}
        return [
            f"peer {rank}: {causes.get(rank) or 'no round recorded'}"
            for rank, done in enumerate(self.done)
            if not done or causes.get(rank)
        ]

    @property
    def state(self) -> str:
        """Status in words, with the rounds completed if the run is not complete."""
        return state(
            self.attributes["status"], self.members, self.done, self.train["round"].shape[1]
        )


def primary_of_old_run(accuracy: Array, rounds: Array) -> str:
    """Return "loss" for a run of version 0.1 that was evaluated without classes."""
    return "loss" if np.isfinite(rounds).any() and np.isnan(accuracy).all() else "accuracy"


def state(status: str, members: list[Table], done: NDArray[np.int64], rounds: int) -> str:
    """Return a run's status in words, with the rounds completed if the run is not complete."""
    if status in COMPLETE and done.min() == rounds:
        return status
    started = [member for member in members if "pid" in member]
    if status == "running" and any("failure" in member for member in members):
        status = "failed"  # but the disk was full
    if status == "running" and started and not any(map(run_folder.alive, started)):
        status = "killed, none of its processes is alive"
    elif status == "running" and not members:
        status = "running when it was joined"
    low, high = done.min(), done.max()
    return f"{status} (rounds {low}{f' to {high}' if high > low else ''} of {rounds})"


def reasons(members: list[Table], attributes: Table) -> list[str]:
    """Return why peers failed, from the attributes of their files, or of the joined file."""
    causes = [str(member["failure"]) for member in members if "failure" in member]
    return merge(causes) or [str(text) for text in attributes.get("failures", [])]


def lost(members: list[Table]) -> list[str]:
    """Return the peers whose files are missing or cannot be read, each with the reason."""
    return [f"peer {i}: {member['lost']}" for i, member in enumerate(members) if "lost" in member]


def merge(causes: list[str]) -> list[str]:
    """Return each cause once: "peers 1 and 4 on HOST failed ..." for peers that failed alike."""
    peers: dict[str, list[str]] = {}  # by what follows the rank, or by a cause without a rank
    for cause in causes:
        match = re.match(r"peer (\d+) (.*)", cause, re.DOTALL)
        rank, rest = ([match[1]], match[2]) if match else ([], cause)
        peers.setdefault(rest, []).extend(rank)
    return [
        f"peer{'s' * (len(ranks) > 1)} {enumerated(ranks)} {rest}" if ranks else rest
        for rest, ranks in peers.items()
    ]


def enumerated(ranks: Sequence[str]) -> str:
    """Return ranks as "1", "1 and 4" or "0, 1, 2 and 97 more"."""
    shown = list(ranks) if len(ranks) <= LISTED else [*ranks[: LISTED - 1], ""]
    last = shown.pop() or f"{len(ranks) - len(shown)} more"
    return f"{', '.join(shown)} and {last}" if shown else last


def read(path: Path) -> Run:
    """Read a run from its folder, its run.h5 or a joined file. InputError if it is not a run."""
    with open_run(path) as file, damage(path):
        check_members(file)  # first of all: the next line may wait for a pipe
        return Run(
            path=path,
            attributes=dict(file.attrs),
            experiment=tomllib.loads(file.attrs["experiment"]),
            weights=column(file, "topology/weights"),
            train={name: numbers(file, f"train/{name}") for name in file["train"]},
            eval={name: numbers(file, f"eval/{name}") for name in file["eval"]},
            better={"loss": "lower"}
            | {
                name: str(dataset.attrs["better"])
                for name, dataset in file["eval"].items()
                if "better" in dataset.attrs
            },
            own={
                name: numbers(file, f"algorithm/{name}")
                for name, dataset in file.get("algorithm", {}).items()
                if not dataset.is_scale
            },
            alignment={
                name: numbers(file, f"alignment/{name}") for name in file.get("alignment", ())
            },
            cost={name: dataset[()] for name, dataset in file.get("cost", {}).items()},
            members=members(file),
        )


def leaves(table: Table, path: str = "") -> Table:
    """Return the values of nested tables as {dotted key: value}."""
    values = {}
    for key, value in table.items():
        inner = leaves(value, f"{path}{key}.") if isinstance(value, dict) else {}
        values.update(inner or {path + key: value})
    return values


def schedules(path: Path) -> list[NDArray[Any]]:
    """Return each peer's events so far (see run_format.ROW). InputError if the run keeps none."""
    with open_run(path) as file, damage(path):
        if "schedule" in file:
            return [events_of(file, rank) for rank in range(file.attrs["peers"])]
    raise InputError(
        f"{str(path)!r} has no schedule: virtual time stood still, or time.schedule was false"
    )


def member_files(file: h5py.File) -> list[Path]:
    """Return the paths of all peers' files, by rank; an empty list for a joined file."""
    dataset, folder = file["train/round"], Path(file.filename).parent
    sources = dataset.virtual_sources() if dataset.is_virtual else []
    return [folder / source.file_name for source in sources]


def members(file: h5py.File) -> list[Table]:
    """Return the attributes of all peers' files, by rank; an empty list for a joined file."""
    return [run_folder.peer_attributes(path) for path in member_files(file)]


def check_members(file: h5py.File) -> None:
    """Check the peers' files; InputError without their folder, ValueError if one is a pipe."""
    files = member_files(file)
    if files and not files[0].parent.exists():
        raise InputError(
            f"{file.filename!r} holds no data itself: they are in the folder "
            f"{files[0].parent.name!r} beside it, which is missing; copy the whole run folder, or "
            "make one file of it by `p2psim join`"
        )
    for path in files:
        if path.exists() and not path.is_file():  # HDF5 would wait for it
            raise ValueError(f"{path.name} is no file")
