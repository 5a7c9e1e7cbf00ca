"""The file run.h5: virtual datasets over the files of all peers, the experiment, the status.

One peer creates it, the first that claims it. It is always replaced as a whole, so that a reader
never sees a part of it.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w

from p2psim import __version__
from p2psim.experiment.scenario import Scenario
from p2psim.models import cost_model
from p2psim.simulation import checkpoint, run_format
from p2psim.simulation.run_format import (
    fill_value,
    layout,
    peer_file,
    peer_status,
    schedule_file,
)

# Seconds after which every node sees a file that another node has written.
VISIBLE_SECONDS = 60.0
STOP = ".stop"  # a file of this name in the run folder requests all peers to stop
ELSEWHERE = (
    "The data are in the folder 'peers' beside this file, and are NaN without it. `p2psim join` "
    "writes all of them into one file."
)
ID_LENGTH = 32  # characters of the identifier of a run
CLAIM = ".claim"  # the peer that creates a file of this name writes run.h5


def new_hdf5(content: bytes = b"") -> h5py.File:
    """Return a new HDF5 file in memory, empty or with the content of another file.

    HDF5 cannot handle a full disk, so a file is built in memory and then written by `replace`.
    """
    if content:
        return h5py.File(h5py.h5f.open_file_image(content, flags=1))  # 1: for writing
    return h5py.File("new", "w", driver="core", backing_store=False)


def replace(path: Path, file: h5py.File) -> None:
    """Replace the file at `path` as a whole by an HDF5 file in memory.

    A reader never sees half a file. OSError if the disk is full; the old file then remains.
    """
    file.flush()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(file.id.get_file_image())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_hdf5(path: Path, content: bytes | None = None) -> Iterator[h5py.File]:
    """Open an HDF5 file for changes, or a new one; see `replace`, which is called at the end.

    `content` is that of a new file, b"" if it is empty: an existing file is removed first.
    """
    if content is not None:
        path.unlink(missing_ok=True)
    elif path.exists():
        content = path.read_bytes()
    with new_hdf5(content or b"") as file:
        yield file
        replace(path, file)


def claim_run_file(folder: Path) -> bool:
    """Return True to the first process that calls it: this process writes run.h5."""
    try:
        os.close(os.open(folder / CLAIM, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def clear(folder: Path, everything: bool) -> None:
    """Remove the files of an earlier run in this folder, and nothing else.

    Without `everything` only the marks that would prevent this run from being resumed. A symbolic
    link is removed itself; the files behind it belong to somebody else.
    """
    for name in (CLAIM, STOP):
        (folder / name).unlink(missing_ok=True)
    if everything:
        for subfolder in (folder / "peers", folder / "checkpoints"):
            if subfolder.is_symlink():
                subfolder.unlink()
        checkpoint.clear(folder)
        files = [
            file
            for name in ("peer-*.h5", "schedule-*.h5", "result-*")
            for file in folder.glob(f"peers/{name}")
        ]
        for file in [folder / "run.h5", folder / "joined.h5", *files]:
            file.unlink(missing_ok=True)


def create_run_file(folder: Path, scenario: Scenario, library: str, resumed: int = 0) -> str:
    """Write run.h5; return the identifier of the run.

    The datasets refer to the peers' files by relative paths. So the folder can be moved, and a
    missing peer file leaves the rest readable. `library` is the name of the transport's library.
    resumed: the round after which the run in the folder goes on, whose attributes then remain; 0
    for a new run.
    """
    n, attributes = scenario.peers, run_attributes(scenario, library)
    if resumed:
        with h5py.File(folder / "run.h5", "r", locking=False) as file:
            old = dict(file.attrs)
        new = {name: attributes[name] for name in ("experiment", "settings", "launch", "status")}
        attributes = {**old, **new, "resumed": [*old.get("resumed", []), resumed]}
    with new_hdf5() as file:
        file.attrs.update(attributes)
        weights = file.create_dataset("topology/weights", data=scenario.topology.weights)
        weights.attrs["meaning"] = "W_t, row = receiver, one matrix per step"
        if scenario.account:
            for name, (unit, meaning) in cost_model.FIELDS.items():
                file[f"cost/{name}"] = getattr(scenario.account, name)
                file[f"cost/{name}"].attrs.update(unit=unit, meaning=meaning)
        for path, (shape, kind, unit, meaning) in layout(scenario).items():
            dataset = create_joint_dataset(file, path, n, shape, kind)
            dataset.attrs.update(unit=unit, meaning=meaning)
        for name, metric in scenario.task.metrics.items():
            for column in {name, f"mean_model_{name}"} & file["eval"].keys():
                file[f"eval/{column}"].attrs["better"] = metric.better
        name_dimensions(file)
        for group in file.values():
            group.attrs["comment"] = ELSEWHERE
        for rank in range(n if scenario.scheduled else 0):
            file[f"schedule/{rank:05d}"] = h5py.ExternalLink(schedule_file(rank), "schedule")
        replace(folder / "run.h5", file)
    return str(attributes["id"])


def create_joint_dataset(
    file: h5py.File, path: str, n: int, shape: tuple[int, ...], kind: str
) -> h5py.Dataset:
    """Create a virtual dataset of shape (n, *shape) over the datasets `path` of the n peers' files.

    Returns the dataset. With h5py's own VirtualLayout run.h5 takes five times as long, which is
    seconds for 1000 peers.
    """
    dtype, own = np.dtype(kind), h5py.h5s.create_simple(shape)
    space = h5py.h5s.create_simple((n, *shape))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_fill_value(np.array([fill_value(kind)], dtype))
    for rank in range(n):
        space.select_hyperslab((rank, *[0] * len(shape)), (1, *shape))
        properties.set_virtual(space, peer_file(rank).encode(), path.encode(), own)
    space.select_all()
    type_ = h5py.h5t.py_create(dtype)
    dataset = h5py.Dataset(h5py.h5d.create(file.id, None, type_, space, properties))
    file[path] = dataset  # also creates the group
    return dataset


def run_attributes(scenario: Scenario, library: str) -> dict[str, Any]:
    """Return the attributes of run.h5 at the start of a run."""
    return {
        "experiment": tomli_w.dumps(scenario.experiment.table),
        "p2psim_version": __version__,
        "seed": scenario.experiment.head.seed,
        "peers": scenario.peers,
        "parameters": scenario.parameters,
        "mpi": library,
        "launch": launch(),
        "settings": list(scenario.experiment.settings),
        "id": uuid.uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": "running",
        "metrics": list(scenario.task.metrics),
        "primary": next(iter(scenario.task.metrics), "loss"),
    }


def name_dimensions(file: Any) -> None:
    """Create the dimension scales of each group and attach them to the group's datasets.

    The scales are peer, row, class, parameter, weight, and those of the graph; xarray shows them as
    named dimensions.
    """
    names_of_group = {
        "topology": ("step", "receiver", "sender"),
        "train": ("peer", "row"),
        "algorithm": ("peer", "row"),
        "eval": ("peer", "row", "class"),
        "alignment": ("peer", "row", "weight"),
        "final": ("peer", "parameter"),
    }
    for path, group in file.items():
        names = names_of_group.get(path, ())
        scales: dict[str, h5py.Dataset] = {}
        for dataset in list(group.values()):
            for axis, (name, size) in enumerate(zip(names, dataset.shape, strict=False)):
                if name not in scales:
                    scales[name] = group.create_dataset(name, data=np.arange(size))
                    scales[name].make_scale(name)
                dataset.dims[axis].attach_scale(scales[name])


def identity(folder: Path) -> str:
    """Return the identifier of the run in this folder, which no other run has."""
    with h5py.File(folder / "run.h5", "r", locking=False) as file:
        return str(file.attrs["id"])


def wait_until_visible(folder: Path) -> None:
    """Wait for run.h5, which a peer on another node may have written a moment ago.

    FileNotFoundError if it does not appear: then the nodes do not share the run folder.
    """
    end = time.monotonic() + VISIBLE_SECONDS
    while not (folder / "run.h5").exists():
        if time.monotonic() > end:
            raise FileNotFoundError(
                f"another peer has written {str(folder / 'run.h5')!r}, but this peer does not find "
                f"it after {VISIBLE_SECONDS:.0f} s: all nodes must share the run folder"
            )
        os.listdir(folder)  # else a network file system may keep reporting that no file exists
        time.sleep(0.1)


def status(folder: Path) -> str:
    """Return the status of the run: "running", "done", "diverged", "failed" or "stopped"."""
    with h5py.File(folder / "run.h5", "r", locking=False) as file:
        return str(file.attrs["status"])


def is_complete(folder: Path, rounds: int = 0) -> bool:
    """Return True if the run in this folder has completed all its rounds, at least `rounds`."""
    with h5py.File(folder / "run.h5", "r", locking=False) as file:
        complete = file.attrs["status"] in run_format.COMPLETE
        return complete and file["train/round"].shape[1] >= rounds


def settings(folder: Path) -> list[str]:
    """Return the values of --set of the run in this folder, or of a sweep's first run in it."""
    for path in sorted([*folder.glob("run.h5"), *folder.glob("*/run.h5")]):
        with contextlib.suppress(OSError), h5py.File(path, "r", locking=False) as file:
            return [str(text) for text in file.attrs.get("settings", [])]
    return []


def launch() -> str:
    """Return the name of the launch that this rank belongs to; "" without a launcher."""
    return os.environ.get("P2PSIM_LAUNCHED", "")


def launched_by(folder: Path) -> str:
    """Return the name of the launch that has started the run; "" without a launcher or a run."""
    with contextlib.suppress(OSError), h5py.File(folder / "run.h5", "r", locking=False) as file:
        return str(file.attrs.get("launch", ""))
    return ""


def lost(folder: Path) -> str:
    """Return the message about a run whose files were taken away."""
    return (
        f"the run folder {str(folder)!r} was deleted, or another run has replaced what was in it, "
        "while this run went on: its rows are lost; start it again, with another --out DIR"
    )


def set_status(folder: Path, status: str) -> None:
    """Record the status of a run that has ended in run.h5, if that file exists."""
    for name in (CLAIM, STOP):
        (folder / name).unlink(missing_ok=True)
    if (folder / "run.h5").exists():
        with atomic_hdf5(folder / "run.h5") as file:
            file.attrs["status"] = status


def set_failure(folder: Path, rank: int, text: str) -> None:
    """Record the reason of a failure in the peer's own file, and the status "failed" in run.h5."""
    path = folder / peer_file(rank)
    path.parent.mkdir(exist_ok=True)
    with atomic_hdf5(path) as file:
        file.attrs["failure"] = text
    set_status(folder, "failed")


def record_crash(path: Path, cause: str) -> None:
    """Record the crash of a peer: the cause and the peer's last status, unless the run has ended.

    `path` is the peer's file, `cause` the predicate of a sentence, as crash_report.cause_of returns
    it.
    """
    folder = path.parent.parent
    if status(folder) != "running":
        return
    last = peer_status(folder, int(path.stem.rpartition("-")[2]))
    where = f"in phase {last.phase!r} of round {last.round}"
    set_failure(folder, last.rank, f"peer {last.rank} on {last.host} {cause} {where}")


def release(folder: Path) -> None:
    """Note in all peers' files that their process, which may live on, has ended the run."""
    for path in folder.glob("peers/peer-*.h5"):
        with h5py.File(path, "r+", locking=False) as file:
            file.attrs["released"] = True
