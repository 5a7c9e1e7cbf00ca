"""Joining of a run's files: run.h5, or a copy of it, that holds the data of all peers itself.

While a run goes on, run.h5 refers to the peers' files, without which its data read as NaN or -1. A
complete run that is not too large is joined at its end, so that run.h5 can be copied alone.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from p2psim.simulation.run_file import new_hdf5, replace
from p2psim.simulation.run_format import ROW

# Attributes that HDF5 itself writes for dimension scales; they must not be copied.
WIRING = {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST"}


def join_run_file(folder: Path, most: float) -> None:
    """Replace run.h5 by a file that holds all data itself, if the data have at most `most` bytes.

    run.h5 stays as it is if it cannot be replaced, or if the last row of a peer cannot be read.
    """
    with contextlib.suppress(OSError), h5py.File(folder / "run.h5", "r", locking=False) as source:
        if size(source) > most:
            return
        with new_hdf5() as target:
            copy(source, target)
            if all((target[f"{group}/round"][:, -1] >= 0).all() for group in ("train", "eval")):
                replace(folder / "run.h5", target)


def size(file: h5py.File) -> int:
    """Return the bytes of all datasets of a run, with the recorded events of all peers."""
    groups = [group for name, group in file.items() if name != "schedule"]
    events = sum(events_of(file, rank).nbytes for rank in range(len(file.get("schedule", ()))))
    return events + sum(int(dataset.nbytes) for group in groups for dataset in group.values())


def events_of(file: h5py.File, rank: int) -> NDArray[Any]:
    """Return the complete events of one peer as an array of type ROW; none without its file."""
    try:
        rows: NDArray[Any] = file[f"schedule/{rank:05d}"][...]
    except (KeyError, OSError):  # while a peer grows its file, the old one is briefly missing
        rows = np.empty(0, ROW)
    return rows[rows["round"] >= 0]


def copy(source: h5py.File, target: h5py.File) -> None:
    """Copy all of a run into `target`, virtual datasets as ordinary ones.

    The peers' files are in the folder of `source`. The rows of a peer whose file cannot be read
    keep the fill value.
    """
    target.attrs.update(source.attrs)
    for rank in range(len(source.get("schedule", ()))):
        target.create_dataset(f"schedule/{rank:05d}", data=events_of(source, rank))
    groups = [group for name, group in source.items() if name != "schedule"]
    datasets = [dataset for group in groups for dataset in group.values()]
    for dataset in datasets:
        duplicate = target.create_dataset(
            dataset.name, dataset.shape, dataset.dtype, fillvalue=dataset.fillvalue
        )
        if not dataset.is_virtual:
            duplicate[...] = dataset[...]
        if dataset.is_scale:
            duplicate.make_scale(dataset.name.rpartition("/")[2])
        duplicate.attrs.update({k: v for k, v in dataset.attrs.items() if k not in WIRING})
    # A scale can be attached only after it exists in the target.
    for dataset in datasets:
        for axis, dimension in enumerate(dataset.dims):
            for scale in dimension.values():
                target[dataset.name].dims[axis].attach_scale(target[scale.name])
    copy_peers(Path(source.filename).parent, [d for d in datasets if d.is_virtual], target)


def copy_peers(folder: Path, datasets: list[h5py.Dataset], target: h5py.File) -> None:
    """Copy the rows of virtual datasets from the peers' files, each of which is opened once."""
    files = [source.file_name for source in datasets[0].virtual_sources()] if datasets else []
    for rank, name in enumerate(files):
        with contextlib.suppress(OSError), h5py.File(folder / name, "r", locking=False) as file:
            for dataset in datasets:
                with contextlib.suppress(OSError, KeyError):
                    target[dataset.name][rank] = file[dataset.name][...]
