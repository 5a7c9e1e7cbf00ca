"""The result file: every peer writes its own HDF5 file, `run.h5` shows them as one.

All sizes are known at the start, so a peer's file is laid out whole, with fill values, and then
mapped into memory: recording a row is an assignment, needs no buffer and no flush, is there for
other processes at once, and survives the sudden death of the peer.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w

from p2psim import __version__
from p2psim.experiment.scenario import Scenario
from p2psim.models import cost_model
from p2psim.simulation import checkpoint

# dataset -> (type, unit, meaning). The first axis in run.h5 is the peer, the second the row.
TRAIN = {
    "round": ("i8", "", "rounds completed, from 1; -1: not reached"),
    "step": ("i8", "", "local steps completed"),
    "epoch": ("f8", "", "passes over the peer's own data"),
    "time": ("f8", "s", "virtual time"),
    "wall": ("f8", "s", "real time since the first round began"),
    "loss": ("f8", "", "mean minibatch loss over the round's local steps"),
    "bytes_sent": ("i8", "byte", "payload bytes handed to the wire, cumulative"),
    "bytes_received": ("i8", "byte", "payload bytes received, cumulative"),
    "messages_sent": ("i8", "", "messages handed to the wire, cumulative"),
    "header_bytes": ("i8", "byte", "header bytes handed to the wire, cumulative"),
    "energy": ("f8", "mJ", "of the gradients' operations, cumulative; NaN: the model has no count"),
}
EVAL = {
    "round": ("i8", "", "rounds completed, from 1; -1: not reached"),
    "phase": ("i8", "", "0 = after local, 1 = after consensus"),
    "time": ("f8", "s", "virtual time"),
    "loss": ("f8", "", "mean loss of the peer's model on the test samples"),
    "consensus_distance": ("f8", "", "sqrt(mean_i ||x_i - mean||^2), the same on every peer"),
}
# In a peer's own file alone: where it is, or where it was when it died. One number, or a list.
STATUS = {
    "phase": ((), "S32", "", "what the peer does"),
    "round": ((), "i8", "", "the round that it is in, from 1; 0: before the first"),
    "since": ((), "f8", "s", "Unix time since when, or since its last gradient"),
    "waits": ((), "f8", "s", "Unix time since when it waits for other peers; 0: it does not"),
    "waits_for": ((16,), "i8", "", "peers that it waits for, the first 16; -1: none"),
}
PHASES = ("local", "consensus")
FLUSH_SECONDS = 5.0
SEEN = 60.0  # seconds after which what one node has written is seen on every other
STOP = ".stop"  # a file of this name in the run folder asks all peers to stop


def layout(scenario: Scenario) -> dict[str, tuple[tuple[int, ...], str, str, str]]:
    """Path -> (shape in a peer's file, type, unit, meaning) of every dataset."""
    rows = len(scenario.eval_rounds()) * len(set(scenario.experiment.eval.phases))
    kind = "f4" if scenario.experiment.model_section.dtype == "float32" else "f8"
    return {
        **{f"train/{name}": ((scenario.rounds,), *spec) for name, spec in TRAIN.items()},
        **{f"eval/{name}": ((rows,), *spec) for name, spec in EVAL.items()},
        **{
            f"eval/{name}": ((rows, *metric.shape), "f8", metric.unit, metric.meaning)
            for name, metric in scenario.task.metrics.items()
        },
        **{
            f"eval/mean_model_{name}": ((rows,), "f8", metric.unit, f"{name} of the mean model")
            for name, metric in itertools.islice(scenario.task.metrics.items(), 1)
        },
        **{
            f"algorithm/{name}": ((scenario.rounds,), "f8", "", meaning)
            for name, meaning in scenario.experiment.algorithm.metrics.items()
        },
        "final/x": ((scenario.parameters,), kind, "", "the peer's vector at the end"),
    }


def fill_value(kind: str) -> Any:
    """What stands where nothing was recorded."""
    return {"i": -1, "f": np.nan, "S": b""}[kind[0]]


def peer_file(rank: int) -> str:
    """A peer's file, relative to the run folder."""
    return f"peers/peer-{rank:05d}.h5"


def schedule_file(rank: int) -> str:
    """The file of a peer's schedule, relative to the run folder."""
    return f"peers/schedule-{rank:05d}.h5"


@dataclass
class PeerStatus:
    """What a peer does, or did when it died; see STATUS."""

    rank: int
    host: str
    phase: str
    round: int
    since: float
    waits: float
    waits_for: list[int]


def status_of(folder: Path, rank: int) -> PeerStatus:
    """What the peer's file says about this moment; OSError if it cannot be read."""
    with h5py.File(folder / peer_file(rank), "r", locking=False) as file:
        now = {name: file["now"][name][()] for name in STATUS}
        return PeerStatus(
            rank,
            str(file.attrs["host"]),
            now["phase"].decode(),
            int(now["round"]),
            float(now["since"]),
            float(now["waits"]),
            [int(other) for other in now["waits_for"] if other >= 0],
        )


def lay_out(file: h5py.File, paths: Mapping[str, Any]) -> None:
    """Make the datasets with every byte of them allocated."""
    for path, (shape, kind, unit, meaning) in paths.items():
        dataset = file.create_dataset(path, data=np.full(shape, fill_value(kind), kind))
        dataset.attrs.update(unit=unit, meaning=meaning)


class Recorder:
    """One peer's file; `train` and `evaluation` are columns to assign rows to.

    With `resume` the file of the run that was interrupted is taken up again.
    """

    def __init__(self, folder: Path, scenario: Scenario, rank: int, resume: bool = False) -> None:
        self.path = folder / peer_file(rank)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        paths = layout(scenario) | {f"now/{name}": spec for name, spec in STATUS.items()}
        who = {"rank": rank, "host": socket.gethostname(), "pid": os.getpid()}
        who["run"] = identity(folder)
        with atomic_hdf5(self.path) as file:
            file.attrs.update(who)
            for name in ("failure", "released"):
                file.attrs.pop(name, None)
            if not resume:
                file.attrs["samples"] = len(scenario.parts[rank])
                lay_out(file, paths)
            file.flush()  # now every dataset has its place
            offsets = {path: file[path].id.get_offset() for path in paths}
        with open(self.path, "r+b") as opened:
            self.map = mmap.mmap(opened.fileno(), 0)
        if hasattr(mmap, "MADV_RANDOM"):
            self.map.madvise(mmap.MADV_RANDOM)  # rows are written, nothing around them is read
        self.columns: dict[str, Any] = {
            path: np.ndarray(shape, kind, self.map, offsets[path])
            for path, (shape, kind, _, _) in paths.items()
        }
        self.rounds, self.rows, self.flushed = 0, 0, time.monotonic()

    def state(self) -> dict[str, int]:
        """Return the numbers of rows in /train and /eval."""
        return {"rounds": self.rounds, "rows": self.rows}

    def restore(self, state: dict[str, int]) -> None:
        """Erase all rows that were recorded after a state."""
        self.rounds, self.rows = rounds, rows = state["rounds"], state["rows"]
        kept = {"train": rounds, "algorithm": rounds, "eval": rows, "final": 0}
        for path, column in self.columns.items():
            group = path.partition("/")[0]
            if group in kept:
                column[kept[group] :] = fill_value(column.dtype.kind)

    def set_phase(self, phase: str, round_: int) -> None:
        """From now on the peer is in this phase, and waits for nobody."""
        self.columns["now/phase"][...] = phase
        self.columns["now/round"][...] = round_
        self.alive()
        self.columns["now/waits"][...] = 0.0

    def alive(self) -> None:
        """The peer has got on within its phase."""
        self.columns["now/since"][...] = time.time()

    def waiting(self, since: float, others: list[int]) -> None:
        """The peer has waited for these others since then, in Unix time; 0.0: it does not."""
        column = self.columns["now/waits_for"]
        column[:] = [*others, *[-1] * column.size][: column.size]
        self.columns["now/waits"][...] = since
        self.map.flush()  # others may look from another node

    def train(self, round_: int, **values: Any) -> None:
        """The row of a round (from 1)."""
        for name, value in values.items():
            self.columns[f"train/{name}"][round_ - 1] = value
        # Last, for readers: a row is there once its round is.
        self.columns["train/round"][round_ - 1] = round_
        self.rounds = round_

    def algorithm_row(self, round_: int, values: Mapping[str, float]) -> None:
        """What the algorithm itself has to record of a round."""
        for name, value in values.items():
            self.columns[f"algorithm/{name}"][round_ - 1] = value

    def evaluation(self, round_: int, phase: str, **values: Any) -> None:
        """The next row of /eval."""
        for name, value in {"phase": PHASES.index(phase), **values, "round": round_}.items():
            self.columns[f"eval/{name}"][self.rows] = value
        self.rows += 1
        # The rows outlive this process anyway; other nodes and a crash of this one need the disk.
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring all rows to the disk."""
        self.map.flush()
        self.flushed = time.monotonic()

    def close(self, x: Any) -> None:
        """Write the final vector and let go of the file."""
        self.columns["final/x"][:] = x
        self.columns.clear()
        self.map.flush()
        self.map.close()


@contextlib.contextmanager
def atomic_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new file, or a file to change, that gets there as a whole or not at all.

    It is made in memory: HDF5 must not meet a full disk, nor a reader half a file. OSError as it
    comes.
    """
    if path.exists():
        image = h5py.h5f.open_file_image(path.read_bytes(), flags=1)  # 1: to write to
        file = h5py.File(image)
    else:
        file = h5py.File(path.name, "w", driver="core", backing_store=False)
    with file:
        yield file
        file.flush()
        content = file.id.get_file_image()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def claim_run_file(folder: Path) -> bool:
    """Whether this process is the one that writes `run.h5`: the first that asks."""
    try:
        os.close(os.open(folder / ".claim", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def clear(folder: Path, everything: bool) -> None:
    """Remove what an earlier run left in this folder, and nothing else.

    Without `everything`, only what would be in the way of going on with it. A symbolic link is
    removed itself; the files that it leads to belong to somebody else.
    """
    for name in (".claim", STOP):
        (folder / name).unlink(missing_ok=True)
    if everything:
        for place in (folder / "peers", folder / "checkpoints"):
            if place.is_symlink():
                place.unlink()
        checkpoint.clear(folder)
        own = [path for name in ("peer", "schedule") for path in folder.glob(f"peers/{name}-*.h5")]
        for path in [folder / "run.h5", folder / "joined.h5", *own]:
            path.unlink(missing_ok=True)


def create_run_file(folder: Path, scenario: Scenario, library: str) -> None:
    """Write `run.h5`: virtual datasets over all peers' files, by relative names."""
    n = scenario.peers
    with atomic_hdf5(folder / "run.h5") as file:
        file.attrs.update(
            experiment=tomli_w.dumps(scenario.experiment.table),
            p2psim_version=__version__,
            seed=scenario.experiment.head.seed,
            peers=n,
            parameters=scenario.parameters,
            mpi=library,
            id=uuid.uuid4().hex,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            status="running",
            metrics=list(scenario.task.metrics),
            primary=next(iter(scenario.task.metrics), "loss"),
        )
        file["topology/weights"] = scenario.topology.weights
        file["topology/weights"].attrs["meaning"] = "W_t, row = receiver, one matrix per step"
        if scenario.account:
            for name, (unit, meaning) in cost_model.FIELDS.items():
                file[f"cost/{name}"] = getattr(scenario.account, name)
                file[f"cost/{name}"].attrs.update(unit=unit, meaning=meaning)
        for path, (shape, kind, unit, meaning) in layout(scenario).items():
            joint = h5py.VirtualLayout((n, *shape), kind)
            for rank in range(n):
                joint[rank] = h5py.VirtualSource(peer_file(rank), path, shape, kind)
            dataset = file.create_virtual_dataset(path, joint, fillvalue=fill_value(kind))
            dataset.attrs.update(unit=unit, meaning=meaning)
        for name, metric in scenario.task.metrics.items():
            file[f"eval/{name}"].attrs["better"] = metric.better
        name_dimensions(file)
        for rank in range(n if scenario.scheduled else 0):
            file[f"schedule/{rank:05d}"] = h5py.ExternalLink(schedule_file(rank), "schedule")


def name_dimensions(file: Any) -> None:
    """Attach the scales peer, row (and class, parameter) of each group to its datasets."""
    for axis, name in enumerate(("step", "receiver", "sender")):
        weights = file["topology/weights"]
        file["topology"][name] = np.arange(weights.shape[axis])
        file["topology"][name].make_scale(name)
        weights.dims[axis].attach_scale(file["topology"][name])
    lasts = {"train": "", "algorithm": "", "eval": "class", "final": "parameter"}
    for group, last in ((group, last) for group, last in lasts.items() if group in file):
        for dataset in list(file[group].values()):
            names = ["peer", "row", last][: dataset.ndim] if group != "final" else ["peer", last]
            for axis, name in enumerate(names):
                if name not in file[group]:
                    file[group][name] = np.arange(dataset.shape[axis])
                    file[group][name].make_scale(name)
                dataset.dims[axis].attach_scale(file[group][name])


def go_on(folder: Path, round_: int) -> None:
    """Note in `run.h5` that the run goes on after this round."""
    with atomic_hdf5(folder / "run.h5") as file:
        file.attrs["resumed"] = [*file.attrs.get("resumed", []), round_]
        file.attrs["status"] = "running"


def identity(folder: Path) -> str:
    """What tells this run from all others. Another node may have made the file just now."""
    end = time.monotonic() + SEEN
    while not (folder / "run.h5").exists() and time.monotonic() < end:
        os.listdir(folder)  # a network file system may remember that the file was not there
        time.sleep(0.1)
    with h5py.File(folder / "run.h5", "r", locking=False) as file:
        return str(file.attrs["id"])


def status(folder: Path) -> str:
    """The attribute `status` of `run.h5`."""
    with h5py.File(folder / "run.h5", "r", locking=False) as file:
        return str(file.attrs["status"])


def set_status(folder: Path, status: str) -> None:
    """Write the attribute `status` of `run.h5`, if that file is there."""
    for name in (".claim", STOP):
        (folder / name).unlink(missing_ok=True)
    if (folder / "run.h5").exists():
        with atomic_hdf5(folder / "run.h5") as file:
            file.attrs["status"] = status


def release(folder: Path) -> None:
    """Note in all peers' files that their process, which may live on, has ended the run."""
    for path in folder.glob("peers/peer-*.h5"):
        with h5py.File(path, "r+", locking=False) as file:
            file.attrs["released"] = True


def set_failure(folder: Path, rank: int, text: str) -> None:
    """Leave the reason of a failure in the peer's own file and the status in `run.h5`."""
    path = folder / peer_file(rank)
    path.parent.mkdir(exist_ok=True)
    with atomic_hdf5(path) as file:
        file.attrs["failure"] = text
    set_status(folder, "failed")


def record_crash(path: Path, cause: str) -> None:
    """Write for a peer that is dead how it died and where it was, unless the run is over."""
    folder = path.parent.parent
    if status(folder) != "running":
        return
    last = status_of(folder, int(path.stem.rpartition("-")[2]))
    where = f"in phase {last.phase!r} of round {last.round}"
    set_failure(folder, last.rank, f"peer {last.rank} on {last.host} {cause} {where}")
