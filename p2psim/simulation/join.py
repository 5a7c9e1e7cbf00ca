"""Joining of a run's files: run.h5, or a copy of it, that holds the data of all peers itself.

While a run goes on, run.h5 refers to the peers' files, without which its data read as NaN or -1. A
complete run that is not too large is joined at its end, so that run.h5 can be copied alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
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
    if not most:
        return
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
    datasets = {dataset.name: dataset for group in groups for dataset in group.values()}
    copies = {name: duplicate(dataset, name, target) for name, dataset in datasets.items()}
    # A scale can be attached only after it exists in the target.
    for name, dataset in datasets.items():
        for axis, dimension in enumerate(dataset.dims):
            for scale in dimension.values():
                copies[name].dims[axis].attach_scale(copies[scale.name])
    virtual = {name: dataset for name, dataset in datasets.items() if dataset.is_virtual}
    copy_peers(Path(source.filename).parent, virtual, copies)


def duplicate(dataset: h5py.Dataset, name: str, target: h5py.File) -> h5py.Dataset:
    """Create the same dataset in `target`, a virtual one full of fill values; return it."""
    result = target.create_dataset(name, dataset.shape, dataset.dtype, fillvalue=dataset.fillvalue)
    if not dataset.is_virtual:
        result[...] = dataset[...]
    if dataset.is_scale:
        result.make_scale(name.rpartition("/")[2])
    result.attrs.update({k: v for k, v in dataset.attrs.items() if k not in WIRING})
    return result


def copy_peers(
    folder: Path, virtual: Mapping[str, h5py.Dataset], copies: Mapping[str, h5py.Dataset]
) -> None:
    """Copy the rows of virtual datasets from the peers' files, each of which is opened once.

    Both mappings are by the path of the dataset.
    """
    files = [s.file_name for s in next(iter(virtual.values())).virtual_sources()] if virtual else []
    for rank, name in enumerate(files):
        with contextlib.suppress(OSError), h5py.File(folder / name, "r", locking=False) as file:
            for path in virtual:
                with contextlib.suppress(OSError, KeyError):
                    copies[path][rank] = file[path][...]
