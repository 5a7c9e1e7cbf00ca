"""The result file: every peer writes its own HDF5 file, `run.h5` shows them as one.

All sizes are known at the start, so a peer's file is laid out whole, with fill values, and then
mapped into memory: recording a row is an assignment, needs no buffer and no flush, is there for
other processes at once, and survives the sudden death of the peer.
"""

from __future__ import annotations

import mmap
import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w

from p2psim import __version__
from p2psim.errors import InputError
from p2psim.scenario import Scenario

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
}
EVAL = {
    "round": ("i8", "", "rounds completed, from 1; -1: not reached"),
    "phase": ("i8", "", "0 = after local, 1 = after consensus"),
    "time": ("f8", "s", "virtual time"),
    "loss": ("f8", "", "mean loss of the peer's model on the test samples"),
    "accuracy": ("f8", "", "share of test samples that the peer's model gets right, in [0, 1]"),
    "consensus_distance": ("f8", "", "sqrt(mean_i ||x_i - mean||^2), the same on every peer"),
    "mean_model_accuracy": ("f8", "", "accuracy of the mean of all models"),
    "class_accuracy": ("f8", "", "accuracy by class; NaN for a class without test samples"),
}
PHASES = ("local", "consensus")
FLUSH_SECONDS = 5.0


def layout(scenario: Scenario) -> dict[str, tuple[tuple[int, ...], str, str, str]]:
    """Path -> (shape in a peer's file, type, unit, meaning) of every dataset."""
    rows = len(scenario.eval_rounds()) * len(set(scenario.experiment.eval.phases))
    kind = "f4" if scenario.experiment.model_section.dtype == "float32" else "f8"
    wide = {"class_accuracy": (rows, scenario.classes)}
    return {
        **{f"train/{name}": ((scenario.rounds,), *spec) for name, spec in TRAIN.items()},
        **{f"eval/{name}": (wide.get(name, (rows,)), *spec) for name, spec in EVAL.items()},
        "final/x": ((scenario.parameters,), kind, "", "the peer's vector at the end"),
    }


def fill_value(kind: str) -> Any:
    """What stands where nothing was recorded."""
    return -1 if kind.startswith("i") else np.nan


def peer_file(rank: int) -> str:
    """A peer's file, relative to the run folder."""
    return f"peers/peer-{rank:05d}.h5"


class Recorder:
    """One peer's file; `train` and `evaluation` are columns to assign rows to."""

    def __init__(self, folder: Path, scenario: Scenario, rank: int) -> None:
        self.path = folder / peer_file(rank)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        offsets = self._create(layout(scenario), rank, len(scenario.parts[rank]))
        with open(self.path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        self.columns: dict[str, Any] = {
            path: np.ndarray(shape, kind, self.map, offsets[path])
            for path, (shape, kind, _, _) in layout(scenario).items()
        }
        self.rows, self.flushed = 0, time.monotonic()

    def _create(self, paths: Mapping[str, Any], rank: int, samples: int) -> dict[str, int]:
        """Write the file with every byte of it allocated; returns each dataset's place."""
        offsets = {}
        partial = self.path.with_suffix(".partial")  # readers never see half a file
        with h5py.File(partial, "w", locking=False) as file:
            file.attrs.update(
                rank=rank, host=socket.gethostname(), pid=os.getpid(), samples=samples
            )
            for path, (shape, kind, unit, meaning) in paths.items():
                filled = np.full(shape, fill_value(kind), kind)
                dataset = file.create_dataset(path, data=filled)
                dataset.attrs.update(unit=unit, meaning=meaning)
            file.flush()
            for path in paths:
                offsets[path] = file[path].id.get_offset()
        partial.replace(self.path)
        return offsets

    def train(self, round_: int, **values: Any) -> None:
        """The row of a round (from 1)."""
        for name, value in values.items():
            self.columns[f"train/{name}"][round_ - 1] = value
        # Last, for readers: a row is there once its round is.
        self.columns["train/round"][round_ - 1] = round_

    def evaluation(self, round_: int, phase: str, **values: Any) -> None:
        """The next row of /eval."""
        for name, value in {"phase": PHASES.index(phase), **values, "round": round_}.items():
            self.columns[f"eval/{name}"][self.rows] = value
        self.rows += 1
        # The rows outlive this process anyway; other nodes and a crash of this one need the disk.
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.map.flush()
            self.flushed = time.monotonic()

    def close(self, x: Any = None) -> None:
        """Write the final vector, where there is one, and let go of the file."""
        if x is not None:
            self.columns["final/x"][:] = x
        self.columns.clear()
        self.map.flush()
        self.map.close()


def check_folder(folder: Path, force: bool) -> None:
    """InputError where a run in this folder would overwrite something, or cannot be."""
    blocked = next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None)
    if blocked:
        raise InputError(
            f"the run folder {str(folder)!r} cannot be made, since {str(blocked)!r} is a file: "
            "give another with --out DIR"
        )
    if folder.exists() and any(folder.iterdir()) and not force:
        raise InputError(
            f"the run folder {str(folder)!r} exists and is not empty: give another with --out "
            "DIR, or --force to replace the run in it"
        )


def claim(folder: Path) -> bool:
    """Whether this process is the one that writes `run.h5`: the first that asks."""
    try:
        os.close(os.open(folder / ".claim", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def clear(folder: Path) -> None:
    """Remove what an earlier run left in this folder, and nothing else."""
    made = [folder / name for name in (".claim", "run.h5", "joined.h5")]
    for path in [*made, *folder.glob("peers/peer-*.h5")]:
        path.unlink(missing_ok=True)


def create_run_file(folder: Path, scenario: Scenario, library: str) -> None:
    """Write `run.h5`: virtual datasets over all peers' files, by relative names."""
    n, partial = scenario.peers, folder / ".run.h5"
    with h5py.File(partial, "w", locking=False) as file:
        file.attrs.update(
            experiment=tomli_w.dumps(scenario.experiment.table),
            p2psim_version=__version__,
            seed=scenario.experiment.head.seed,
            peers=n,
            parameters=scenario.parameters,
            mpi=library,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            status="running",
        )
        file["topology/weights"] = scenario.topology.weights
        file["topology/weights"].attrs["meaning"] = "W_t, row = receiver, one matrix per step"
        for path, (shape, kind, unit, meaning) in layout(scenario).items():
            joint = h5py.VirtualLayout((n, *shape), kind)
            for rank in range(n):
                joint[rank] = h5py.VirtualSource(peer_file(rank), path, shape, kind)
            dataset = file.create_virtual_dataset(path, joint, fillvalue=fill_value(kind))
            dataset.attrs.update(unit=unit, meaning=meaning)
        name_dimensions(file)
    partial.replace(folder / "run.h5")


def name_dimensions(file: Any) -> None:
    """Attach the scales peer, row (and class, parameter) of each group to its datasets."""
    for axis, name in enumerate(("step", "receiver", "sender")):
        weights = file["topology/weights"]
        file["topology"][name] = np.arange(weights.shape[axis])
        file["topology"][name].make_scale(name)
        weights.dims[axis].attach_scale(file["topology"][name])
    for group, last in (("train", ""), ("eval", "class"), ("final", "parameter")):
        for dataset in list(file[group].values()):
            names = ["peer", "row", last][: dataset.ndim] if group != "final" else ["peer", last]
            for axis, name in enumerate(names):
                if name not in file[group]:
                    file[group][name] = np.arange(dataset.shape[axis])
                    file[group][name].make_scale(name)
                dataset.dims[axis].attach_scale(file[group][name])


def set_status(folder: Path, status: str) -> None:
    """Write the attribute `status` of `run.h5`, if that file is there: the run is over."""
    (folder / ".claim").unlink(missing_ok=True)
    if (folder / "run.h5").exists():
        with h5py.File(folder / "run.h5", "r+", locking=False) as file:
            file.attrs["status"] = status


def set_failure(folder: Path, rank: int, text: str) -> None:
    """Leave the reason of a failure in the peer's own file and the status in `run.h5`."""
    path = folder / peer_file(rank)
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "a", locking=False) as file:
        file.attrs["failure"] = text
    set_status(folder, "failed")
