"""Python interface of p2psim, for notebooks and scripts: run experiments, and read runs.

    from p2psim import api

    experiment = {
        "name": "example",
        "peers": 4,
        "rounds": 20,
        "data": {"name": "digits", "batch_size": 16},
        "model": {"name": "mlp", "hidden": [32]},
        "topology": "ring",
        "algorithm": {"name": "choco-sgd", "gamma": 0.4},
        "eval": {"every": 5},
    }
    print(api.plan(experiment)["traffic"])
    run = api.run(experiment, out="runs/example", force=True)
    print(run.status, run.primary, run.final.shape)
    after = run.eval.sel(row=run.eval.phase == "consensus")       # an xarray dataset
    print(after.accuracy.mean("peer").values)
    print(run.frame("train").groupby("round").loss.mean())        # a pandas frame
    gammas = {"sweep": {"algorithm.gamma": [0.1, 0.2, 0.4]}}
    api.run(experiment, set=gammas, out="runs/gammas", force=True)
    print(api.load_sweep("runs/gammas")[["algorithm.gamma", "accuracy", "bytes_sent"]])

An experiment is the path of an experiment file, or its tables as a dict. Relative paths in a dict
start from the current folder. A plug-in of your own stands in a file, as `"my_file.py:ClassName"`,
which is read again at each call. A mistake raises InputError; its message names options as the
command line does: `--out DIR` is `out=...` here. Datasets need xarray and pandas: pip install
'p2psim[api]'.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from p2psim.errors import InputError, PeerError, StoppedError

if TYPE_CHECKING:
    import pandas as pd

    from p2psim.analysis.datasets import Run

__all__ = [
    "InputError",
    "PeerError",
    "Run",
    "StoppedError",
    "load",
    "load_sweep",
    "plan",
    "run",
]

Table: TypeAlias = Mapping[str, Any]
Experiment: TypeAlias = "str | os.PathLike[str] | Table"
NAME = "experiment"  # of a table without a name


def load(path: str | os.PathLike[str]) -> Run:
    """Load a run, in any state, from its run folder, its run.h5 or a joined file.

    See `Run` for its contents. InputError if there is no run.
    """
    from p2psim.analysis import datasets

    return datasets.Run(Path(path))


def load_sweep(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Load all runs of a sweep as one frame, with a row for each run.

    The index is the name of the run: `api.load(folder / name)` loads it. Columns: the dotted keys
    whose values differ, such as "algorithm.gamma"; `status`; of the last evaluation the primary
    metric, `loss` and `consensus_distance`, as means over the peers; `bytes_sent`, the payload of
    all peers (byte); `time`, the virtual time of the last peer (s). InputError if there is no run.
    """
    from p2psim.analysis import datasets

    return datasets.sweep(Path(folder))


def run(
    experiment: Experiment,
    set: Table | None = None,
    out: str | os.PathLike[str] | None = None,
    debug: bool = False,
    force: bool = False,
    resume: bool = False,
    progress: bool = False,
) -> Run | Any:
    """Run an experiment as `p2psim run` does; returns the run, or of a sweep the list of its runs.

    set: values by dotted key, which override those of the experiment; {"sweep": {...}} sweeps.
    out: run folder (default: runs/NAME). force: replace the run in it. resume: go on with the run
    in it. progress: show a progress bar. debug: run all peers as threads of this process, so that
    breakpoints work, with the same bits; otherwise each peer is a process of its own.

    Raises InputError if the experiment cannot run, and writes nothing then; PeerError if a peer
    fails; StoppedError if the run is stopped. A signal such as Ctrl-C stops the run with a
    checkpoint and then reaches the caller's own handler: Ctrl-C raises KeyboardInterrupt, as
    elsewhere in Python. `load(out)` reads the rows of such a run, and `resume` continues it.
    """
    from p2psim.launcher import environment, run_requests, runner, stopping
    from p2psim.launcher.output import Reports
    from p2psim.simulation import devices

    if environment.mpi_rank() and not debug:
        raise InputError(
            "api.run starts the ranks itself, but this process is a rank already: start the "
            "program without mpiexec or srun, or give debug=True"
        )
    table, paths = _tables(experiment, set)
    folder = None if out is None else Path(out)
    requests = run_requests.requests_of_table(table, paths, folder, force, resume)
    reports = Reports(_warn, progress, keep_errors=True)
    with stopping.restored_handlers(), devices.like_a_rank() if debug else nullcontext():
        folders = list(runner.run_all(list(enumerate(requests)), debug, reports))
    runs = [load(folder) for folder in folders]
    return runs if "sweep" in table else runs[0]


def plan(experiment: Experiment, set: Table | None = None) -> dict[str, Any]:
    """Check an experiment without running it; returns the rows of `p2psim plan` as {name: text}.

    For a sweep it returns {name of the combination: such rows}. InputError as for `run`.
    """
    from p2psim.experiment import plan
    from p2psim.launcher import run_requests

    table, paths = _tables(experiment, set)
    requests = run_requests.requests_of_table(table, paths, None, force=False, resume=False)
    plans = {request.label: plan.plan(request.scenario()) for request in requests}
    return plans if "sweep" in table else plans[""]


def _tables(experiment: Experiment, settings: Table | None) -> tuple[dict[str, Any], Path]:
    """Return the tables of an experiment with its settings, and the folder its paths start from."""
    from p2psim import registry
    from p2psim.experiment import config, sweep

    registry.forget_files()
    if isinstance(experiment, Mapping):
        return sweep.update({"name": NAME, **experiment}, settings or {}), Path.cwd()
    if not isinstance(experiment, str | os.PathLike):
        raise InputError(
            f"{experiment!r} is no experiment: give the path of an experiment file, or its tables "
            "as a dict"
        )
    file = Path(experiment)
    return sweep.update(config.read(file), settings or {}), file.resolve().parent


def _warn(text: str) -> None:
    """Warn at the line outside this package that has called it: Python shows each line once."""
    level, frame = 1, inspect.currentframe()
    while frame and frame.f_globals.get("__name__", "").startswith("p2psim."):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"p2psim: {text}", stacklevel=level)


def __getattr__(name: str) -> Any:
    """Import and return `Run`, which needs h5py; AttributeError for any other name."""
    if name == "Run":
        from p2psim.analysis.datasets import Run

        return Run
    raise AttributeError(name)
