"""What a user says of each peer: numbers in the experiment file, columns of a CSV or HDF5 file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from p2psim.base import Matrix
from p2psim.errors import InputError

HDF5 = (".h5", ".hdf5")


def read_columns(path: Path, key: str, *wanted: str, **optional: float) -> dict[str, Matrix]:
    """These columns of a CSV file with a first line of names, or these datasets of an HDF5 file.

    All of one length, in float64; an optional one that is not there is filled with its default.
    InputError names the file and the `key` that gave it.
    """
    if not path.is_file():
        raise InputError(f"{key}: there is no file {str(path)!r}; correct the path")
    columns = [*wanted, *optional]
    try:
        found = _of_hdf5(path, columns) if path.suffix in HDF5 else _of_csv(path, columns)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{key}: {path.name} cannot be read: {error}") from None
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"{key}: {path.name} has no column {missing[0]!r}; give {', '.join(wanted)}"
            + "".join(f", {name} if you like" for name in optional)
        )
    length = len(found[wanted[0]])
    found = {name: found.get(name, np.full(length, value)) for name, value in optional.items()} | {
        name: found[name] for name in wanted
    }
    if not length:
        raise InputError(f"{key}: {path.name} has no rows; give some")
    if any(len(column) != length for column in found.values()):
        raise InputError(f"{key}: {path.name} has columns of several lengths; correct it")
    return found


def _of_csv(path: Path, wanted: Sequence[str]) -> dict[str, Matrix]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark first
        rows = [row for row in csv.reader(file, skipinitialspace=True, strict=True) if row]
    if not rows:
        raise ValueError(f"it is empty; its first line must name the columns {', '.join(wanted)}")
    names = [name.strip() for name in rows.pop(0)]
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise ValueError(f"its first line names {twice[0]!r} twice")
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} fields, the first line {len(names)}")
    at = {name: names.index(name) for name in wanted if name in names}
    return {name: np.array([row[i] for row in rows], float) for name, i in at.items()}


def _of_hdf5(path: Path, wanted: Sequence[str]) -> dict[str, Matrix]:
    import h5py

    with h5py.File(path, "r") as file:
        return {
            name: np.asarray(dataset[...], float)
            for name, dataset in file.items()
            if name in wanted
            and isinstance(dataset, h5py.Dataset)
            and dataset.ndim == 1
            and dataset.dtype.kind in "iuf"
        }


def check_ranks(key: str, ranks: Iterable[float], peers: int) -> None:
    """InputError unless all of these are ranks."""
    for rank in ranks:
        if rank not in range(peers):
            raise InputError(f"{key}: {rank:g} is no rank; there are peers 0 to {peers - 1}")


def broadcast_to_peers(value: Sequence[float] | float, key: str, peers: int) -> Sequence[float]:
    """One number for all peers, or one for each; InputError where there are more or fewer."""
    if not isinstance(value, Sequence):
        return [value] * peers
    if len(value) != peers:
        raise InputError(
            f"{key} has {len(value)} entries for {peers} peers; give one for each, or one for all"
        )
    return value
