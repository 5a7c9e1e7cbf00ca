"""Numbers that a user gives for each peer: in the experiment file, or as columns of CSV or HDF5."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from p2psim.base import Matrix
from p2psim.errors import InputError

HDF5 = (".h5", ".hdf5")
DEFLATE = 1032  # greatest ratio of compression: data of more bytes are not in a file


def read_columns(path: Path, key: str, *required: str, **optional: float) -> dict[str, Matrix]:
    """Read columns of a CSV file whose first line has their names, or datasets of an HDF5 file.

    Returns {name: float64 values, shape (rows,)}. A missing optional column is filled with its
    default. Raises InputError, which names the file and the experiment file's `key` of it, if
    the file cannot be read, has no rows, or lacks a required column.
    """
    if not path.is_file():
        raise InputError(f"{key}: there is no file {str(path)!r}; correct the path")
    names = [*required, *optional]
    try:
        columns = _read_hdf5(path, names) if path.suffix in HDF5 else _read_csv(path, names)
    except (OSError, ValueError, RuntimeError, csv.Error) as error:  # RuntimeError: of HDF5
        raise InputError(f"{key}: {path.name} cannot be read: {error}") from None
    missing = [name for name in required if name not in columns]
    if missing:
        raise InputError(
            f"{key}: {path.name} has no column {missing[0]!r}; give {', '.join(required)}"
            + "".join(f", and optionally {name}" for name in optional)
        )
    length = len(columns[required[0]])
    columns = {
        name: columns.get(name, np.full(length, value)) for name, value in optional.items()
    } | {name: columns[name] for name in required}
    if not length:
        raise InputError(f"{key}: {path.name} has no rows; give some")
    if any(len(column) != length for column in columns.values()):
        raise InputError(f"{key}: {path.name} has columns of several lengths; correct it")
    return columns


def _read_csv(path: Path, columns: Sequence[str]) -> dict[str, Matrix]:
    with path.open(
        encoding="utf-8-sig", newline=""
    ) as file:  # -sig: spreadsheets write a byte-order mark
        rows = [row for row in csv.reader(file, skipinitialspace=True, strict=True) if row]
    if not rows:
        raise ValueError(f"it is empty; its first line must name the columns {', '.join(columns)}")
    names = [name.strip() for name in rows.pop(0)]
    if twice := [name for name in columns if names.count(name) > 1]:
        raise ValueError(f"its first line names {twice[0]!r} twice")
    # Row 1 is the line of the names.
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} fields, the first line {len(names)}")
    index = {name: names.index(name) for name in columns if name in names}
    return {name: np.array([row[i] for row in rows], float) for name, i in index.items()}


def _read_hdf5(path: Path, columns: Sequence[str]) -> dict[str, Matrix]:
    import h5py

    with h5py.File(path, "r") as file:
        datasets = {
            name: file[name]
            for name in columns
            if isinstance(file.get(name), h5py.Dataset)
            and file[name].ndim == 1
            and file[name].dtype.kind in "iuf"
        }
        for name, dataset in datasets.items():
            if dataset.nbytes > DEFLATE * path.stat().st_size:
                raise ValueError(f"{name!r} claims {dataset.size} rows, more than the file holds")
        return {name: np.asarray(dataset[...], float) for name, dataset in datasets.items()}


def check_ranks(key: str, ranks: Iterable[float], peers: int) -> None:
    """Check that all numbers are ranks, 0 to peers - 1; InputError otherwise."""
    for rank in ranks:
        if rank not in range(peers):
            raise InputError(f"{key}: {rank:g} is no rank; there are peers 0 to {peers - 1}")


def broadcast_to_peers(value: Sequence[float] | float, key: str, peers: int) -> Sequence[float]:
    """Return one number per peer, from one number for all peers or from one for each.

    Raises InputError, which names `key`, if the sequence has more or fewer entries than peers.
    """
    if not isinstance(value, Sequence):
        return [value] * peers
    if len(value) != peers:
        raise InputError(
            f"{key} has {len(value)} entries for {peers} peers; give one for each, or one for all"
        )
    return value
