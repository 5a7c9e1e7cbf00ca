"""Recorded runs as xarray datasets and pandas frames: the results of p2psim.api.

xarray and pandas are optional dependencies and are imported where they are used.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from p2psim.analysis import results
from p2psim.analysis.results import Array, Table
from p2psim.errors import InputError, suggest
from p2psim.simulation.run_format import PHASES

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

GROUPS = ("train", "eval", "algorithm")
COORDINATES = ("round", "phase")  # columns that locate a row rather than measure anything


def library(name: str) -> Any:
    """Import and return xarray or pandas; InputError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"p2psim.api needs {name}: pip install 'p2psim[api]'") from None


class Run:
    """Recorded run: its experiment, its measurements and its result.

    A run can be read in any state; load it again to see newer rows. All but `final` is read at
    once. InputError if the path is not that of a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path  # run folder or file, as the caller gave it
        self.file = results.run_path(path).absolute()  # the caller may change its folder
        self.record = results.read(path)
        with results.open_run(path) as file:
            self.columns = {group: columns(file, group) for group in GROUPS}

    def __repr__(self) -> str:
        """Return the state and the size of the run in one line."""
        peers, d = self.record.weights.shape[-1], self.record.attributes["parameters"]
        return f"<p2psim run {str(self.path)!r}: {self.record.state}, {peers} peers, d = {d:,}>"

    @property
    def name(self) -> str:
        """Name of the run folder, which identifies a combination of a sweep."""
        return self.file.parent.name

    @property
    def status(self) -> str:
        """Status in one word: done, running, stopped, failed, or killed (no process is alive)."""
        return status(self.record)

    @property
    def failures(self) -> list[str]:
        """Reasons of failed peers."""
        return self.record.failures

    @property
    def experiment(self) -> Table:
        """Tables of the experiment file, with all defaults."""
        return self.record.experiment

    @property
    def weights(self) -> Array:
        """Mixing matrices W_t, shape (period, n, n), row = receiver."""
        return self.record.weights

    @property
    def primary(self) -> str:
        """Name of the variable of `eval` that measures a model first of all, such as accuracy."""
        return self.record.primary

    @cached_property
    def final(self) -> NDArray[Any]:
        """Final vectors x, shape (n, d), in the float type of the run; NaN if not recorded.

        They are read at the first use, because they may be large. InputError if another run has
        replaced this one meanwhile.
        """
        with results.open_run(self.file) as file:
            if file.attrs.get("id") != self.record.attributes.get("id"):
                raise InputError(
                    f"another run has replaced the one that was loaded from {str(self.path)!r}: "
                    "read `final` before the next run, or run in another folder"
                )
            return results.column(file, "final/x")

    @cached_property
    def train(self) -> xr.Dataset:
        """Measurements of each peer and round: loss, bytes_sent, time, ...

        Dimensions: peer, from 0, and round, from 1. See `dataset` for missing values.
        """
        return self._of_rounds("train", self.record.train)

    @cached_property
    def eval(self) -> xr.Dataset:
        """Evaluations of each peer: loss, the task's metrics, consensus_distance, time.

        Dimensions: peer and row, for some metrics also class; coordinates of a row: its round and
        its phase, "local" or "consensus" (the evaluation is after it). The rows after consensus are
        `run.eval.sel(row=run.eval.phase == "consensus")`. See `dataset` for missing values.
        """
        columns = self.columns["eval"]
        rows = dataset(columns, self.record.eval, self.record.eval["round"])
        rounds, phases = (rows[name].max("peer").astype(int) for name in COORDINATES)
        rounds.attrs, names = columns["round"].labels, np.array(PHASES)[phases]
        return rows.drop_vars(COORDINATES).assign_coords(round=rounds, phase=("row", names))

    @cached_property
    def algorithm(self) -> xr.Dataset:
        """Measurements of each peer and round that the algorithm itself records; often none."""
        return self._of_rounds("algorithm", self.record.own)

    def _of_rounds(self, group: str, values: dict[str, Array]) -> xr.Dataset:
        """Return a group that has one row for each round, with the dimension round."""
        rows = dataset(self.columns[group], values, self.record.train["round"])
        rows = rows.drop_vars("round", errors="ignore")
        rows = rows.rename(row="round") if "row" in rows.dims else rows
        return rows.assign_coords(round=np.arange(1, rows.sizes.get("round", 0) + 1))

    def frame(self, group: str = "eval") -> pd.DataFrame:
        """Return "eval", "train" or "algorithm" as a frame with a row for each recorded row.

        Columns: peer, round, phase (in "eval"), then one for each variable. Variables with a value
        for each class are left out: `run.eval["class_accuracy"].to_dataframe()` has them. Rows that
        a peer has not reached are left out.
        """
        if group not in GROUPS:
            raise InputError(f"frame({group!r}): {suggest(group, GROUPS)}")
        variables: xr.Dataset = getattr(self, group)
        variables = variables.drop_dims([dim for dim in variables.dims if dim not in DIMENSIONS])
        names = [name for name in COORDINATES if name in variables.coords]
        measured = list(variables.data_vars)
        frame = variables.to_dataframe().reset_index()
        frame = frame.dropna(how="all", subset=measured) if measured else frame.iloc[:0]
        return frame[["peer", *names, *measured]].reset_index(drop=True)


DIMENSIONS = ("peer", "round", "row")  # of measurements that are one number


@dataclass(frozen=True)
class Column:
    """Description of a recorded column."""

    dimensions: list[str]
    labels: dict[str, str]  # under the names that xarray's plots read
    whole: bool  # numbers


def columns(file: Any, group: str) -> dict[str, Column]:
    """Return the descriptions of the columns of an open run's group; empty without the group."""
    return {
        name: Column(
            [next(iter(axis.values())).name.rpartition("/")[2] for axis in column.dims],
            {"units": str(column.attrs["unit"]), "long_name": str(column.attrs["meaning"])},
            column.dtype.kind == "i",
        )
        for name, column in file.get(group, {}).items()
        if not column.is_scale
    }


def dataset(group: dict[str, Column], values: dict[str, Array], rounds: Array) -> xr.Dataset:
    """Return columns as a dataset; rows that no peer has reached are left out.

    Dimensions: peer and row, and those that a metric adds, such as class. Values that a peer has
    not recorded are NaN; a column of whole numbers without such values consists of integers.
    `rounds`, shape (n, rows), is NaN where a peer has not reached a row.
    """
    rows = int(np.isfinite(rounds).any(axis=0).sum())
    variables = {}
    for name, column in group.items():
        recorded = values[name][:, :rows]
        if column.whole and np.isfinite(recorded).all():
            recorded = recorded.astype(np.int64)
        variables[name] = (column.dimensions, recorded, column.labels)
    result: xr.Dataset = library("xarray").Dataset(variables, {"peer": np.arange(len(rounds))})
    return result


def sweep(folder: Path) -> pd.DataFrame:
    """Return a frame with a row for each run of a sweep, by the name of its folder.

    Columns: each dotted key of the experiment whose value is not the same in all runs; `status`;
    then of the last evaluation the primary metric, `loss` and `consensus_distance`, as means over
    the peers; `bytes_sent`, the payload of all peers (byte), and `time`, the virtual time of the
    last peer (s). NaN where a run has no such value. InputError if the folder holds no run.
    """
    pandas = library("pandas")
    experiments, measured = {}, {}
    for path in results.expand(folder):
        name, run = results.run_path(path).absolute().parent.name, results.read(path)
        experiments[name] = results.leaves(run.experiment)
        measured[name] = {"status": status(run), **outcome(run)}
    keys = dict.fromkeys(key for table in experiments.values() for key in table)
    swept = [
        key for key in keys if len({repr(table.get(key)) for table in experiments.values()}) > 1
    ]
    rows = [
        {**{key: experiments[name].get(key) for key in swept}, **values}
        for name, values in measured.items()
    ]
    names = pandas.Index(measured, name="run")
    frame: pd.DataFrame = pandas.DataFrame(rows, names)
    return frame


def status(run: results.Run) -> str:
    """Return the state of a run in one word."""
    return re.split(r"\W", run.state)[0]


def outcome(run: results.Run) -> dict[str, float]:
    """Return the last values of a run: means of /eval, all payload bytes, the latest time."""
    names = dict.fromkeys([run.primary, "loss", "consensus_distance"])
    last = max([-1, *run.rows(0), *run.rows(1)])
    peers = np.isfinite(run.eval["round"][:, last])  # the file of a peer may be lost
    ends = {n: float(run.eval[n][peers, last].mean()) if last >= 0 else np.nan for n in names}
    reached = run.done > 0
    sent, time = run.last("bytes_sent")[reached], run.last("time")[reached]
    return {**ends, "bytes_sent": int(sent.sum()), "time": float(time.max(initial=0))}
