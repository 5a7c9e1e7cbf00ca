"""Recorded runs as xarray datasets and pandas frames: the results of p2psim.api.

xarray and pandas are optional dependencies and are imported where they are used.
"""

from __future__ import annotations

import importlib
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from p2psim.analysis import results
from p2psim.analysis.results import Array, Table
from p2psim.errors import InputError, suggest
from p2psim.simulation.recorder import PHASES

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

    A run can be read in any state; load it again to see newer rows. Measurements are read from the
    run folder when they are first used. InputError if the path is not that of a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path  # run folder or file, as the caller gave it
        self.file = results.run_file(path).absolute()  # the caller may change its folder
        self.record = results.read(path)

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
        return re.split(r"\W", self.record.state)[0]

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
        """Final vectors x, shape (n, d), in the float type of the run; NaN if not recorded."""
        with results.open_run(self.file) as file:
            return results.column(file, "final/x")

    @cached_property
    def train(self) -> xr.Dataset:
        """One value for each peer and round: loss, bytes_sent, time, ...; see `dataset`."""
        return dataset(self.file, "train")

    @cached_property
    def eval(self) -> xr.Dataset:
        """One value for each peer and evaluation, with coordinates round and phase of the row.

        The rows after consensus are `run.eval.sel(row=run.eval.phase == "consensus")`.
        """
        return dataset(self.file, "eval")

    @cached_property
    def algorithm(self) -> xr.Dataset:
        """One value for each peer and round of the algorithm's own metrics; often none."""
        return dataset(self.file, "algorithm")

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


def dataset(path: Path, group: str) -> xr.Dataset:
    """Read /train, /eval or /algorithm of a run; rows that no peer has reached are left out.

    Dimensions: peer and round in /train and /algorithm, peer and row in /eval, and those that a
    metric adds, such as class. Attributes of each variable: units and long_name. Values that a peer
    has not recorded are NaN; a column of whole numbers without such values stays whole.
    """
    xarray = library("xarray")
    with results.open_run(path) as file:
        rounds = results.column(file, ("eval" if group == "eval" else "train") + "/round")
        rows = int((rounds >= 0).any(axis=0).sum())
        columns = {k: v for k, v in file.get(group, {}).items() if not v.is_scale}
        variables: dict[str, Any] = {
            name: (dimensions(column), recorded(results.part(column)[:, :rows]), labels(column))
            for name, column in columns.items()
            if name not in COORDINATES
        }
        coordinates: dict[str, Any] = {"peer": np.arange(len(rounds))}
        if group == "eval":
            coordinates["round"] = ("row", rounds[:, :rows].max(axis=0), labels(columns["round"]))
            phases = results.column(file, "eval/phase")[:, :rows].max(axis=0)
            coordinates["phase"] = ("row", np.array(PHASES)[phases])
        else:
            coordinates["round"] = np.arange(1, rows + 1)
            variables = {k: (["peer", "round"], *v) for k, (_, *v) in variables.items()}
        values: xr.Dataset = xarray.Dataset(variables, coordinates)
        return values


def dimensions(column: Any) -> list[str]:
    """Return the names of a dataset's dimensions, from the scales that are attached to it."""
    scales = [next(iter(dimension.values())).name for dimension in column.dims]
    return [scale.rpartition("/")[2] for scale in scales]


def labels(column: Any) -> dict[str, str]:
    """Return unit and meaning of a dataset under the names that xarray's plots read."""
    return {"units": str(column.attrs["unit"]), "long_name": str(column.attrs["meaning"])}


def recorded(values: NDArray[Any]) -> NDArray[Any]:
    """Return values with NaN instead of -1 where whole numbers were not recorded."""
    missing = values == -1 if values.dtype.kind == "i" else np.zeros(values.shape, bool)
    return np.where(missing, np.nan, values) if missing.any() else values


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
        run = Run(path)
        experiments[run.name] = results.leaves(run.experiment)
        measured[run.name] = {"status": run.status, **outcome(run.record)}
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


def outcome(run: results.Run) -> dict[str, float]:
    """Return the last values of a run: means of /eval, all payload bytes, the latest time."""
    names = dict.fromkeys([run.primary, "loss", "consensus_distance"])
    last = max([-1, *run.rows(0), *run.rows(1)])
    peers = np.isfinite(run.eval["round"][:, last])  # the file of a peer may be lost
    ends = {n: float(run.eval[n][peers, last].mean()) if last >= 0 else np.nan for n in names}
    reached = run.done > 0
    sent, time = run.last("bytes_sent")[reached], run.last("time")[reached]
    return {**ends, "bytes_sent": int(sent.sum()), "time": float(time.max(initial=0))}
