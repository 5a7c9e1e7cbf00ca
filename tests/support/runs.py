"""Runs of experiments in tests: problems, tables, runs by threads or mpiexec, and their results."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import tomli_w
from numpy.typing import NDArray

from p2psim.experiment import scenario, sweep
from p2psim.launcher import ranks
from p2psim.network.threads import run_threads
from p2psim.network.transport import Transport
from p2psim.simulation import session

Matrix: TypeAlias = NDArray[np.float64]
Table: TypeAlias = dict[str, Any]
# Experiment file of a run that takes one or two seconds.
EXPERIMENT = """
name = "small"
peers = 4
rounds = 6
data = { name = "digits", batch_size = 16 }
model = { name = "mlp", hidden = [8] }
topology = { name = "ring" }
algorithm = { name = "choco-sgd", gamma = 0.4 }
eval = { every = 2 }
run = { join = 0 }  # tests change the peers' files, which run.h5 shows then
"""


@dataclass(frozen=True)
class Problem:
    """Least-squares problem f_i(x) = ||A_i x - b_i||^2 / (2 m) of n peers."""

    A: Matrix  # (n, m, d)
    b: Matrix  # (n, m)
    x0: Matrix  # (n, d), initial x of every peer

    @property
    def peers(self) -> int:
        return len(self.A)

    def write(self, path: Path) -> Path:
        """Write the problem as a file for data = "quadratic"; return `path`."""
        np.savez(path, A=self.A, b=self.b, x0=self.x0)
        return path


def quadratics(n: int, d: int = 12, seed: int = 0, *, same_start: bool = False) -> Problem:
    """Return random least squares in which every peer has its own A, b, minimizer and start.

    same_start: all peers start from the x of peer 0.
    """
    random = np.random.default_rng(seed)
    m = 3 * d
    a = random.standard_normal((n, m, d))
    own = 1 + random.standard_normal((n, d))
    b = np.einsum("nmd,nd->nm", a, own) + 0.1 * random.standard_normal((n, m))
    start = random.standard_normal((n, d))
    return Problem(a, b, np.repeat(start[:1], n, axis=0) if same_start else start)


def gossip(n: int, d: int = 12, seed: int = 0) -> Problem:
    """Return a problem with A = 0: every gradient is exactly 0, and only mixing changes x."""
    start = 1 + np.random.default_rng(seed).standard_normal((n, d))
    return Problem(np.zeros((n, 1, d)), np.zeros((n, 1)), start)


def quadratic_table(
    problem: Problem,
    folder: Path,
    algorithm: str | Table,
    *,
    topology: str | Table = "ring",
    rounds: int = 100,
    optimizer: Table | None = None,
    local_steps: int = 1,
    consensus_steps: int = 1,
    dtype: str = "float64",
    **sections: Any,
) -> Table:
    """Return an experiment of `algorithm` on `problem`, whose file is written into `folder`."""
    problem.write(folder / "problem.npz")
    return {
        "name": "test",
        "peers": problem.peers,
        "rounds": rounds,
        "data": {"name": "quadratic", "file": "problem.npz"},
        "model": {"name": "vector", "dtype": dtype},
        "learning": {
            "optimizer": {"name": "sgd", "lr": 0.05, **(optimizer or {})},
            "local_steps": local_steps,
            "consensus_steps": consensus_steps,
        },
        "algorithm": algorithm,
        "topology": topology,
        "eval": {"every": rounds},
        **sections,
    }


@dataclass(frozen=True)
class Run:
    """Datasets of a finished run, read from run.h5; the first axis is the peer."""

    x: NDArray[Any]  # /final/x, in the float type of the run
    train: dict[str, NDArray[Any]]
    eval: dict[str, NDArray[Any]]
    weights: Matrix  # (period, n, n)
    parameters: int
    algorithm: dict[str, NDArray[Any]]  # metrics of the algorithm
    schedule: list[bytes]  # events of each peer

    def datasets(self) -> dict[str, bytes]:
        """Return the bytes of all datasets that must be equal in every repetition of the run."""
        content = {"final/x": self.x.tobytes()}
        content |= {f"schedule/{rank}": events for rank, events in enumerate(self.schedule)}
        groups = {"train": self.train, "eval": self.eval, "algorithm": self.algorithm}
        for group, columns in groups.items():
            content |= {f"{group}/{k}": v.tobytes() for k, v in columns.items() if k != "wall"}
        return content


def read(folder: Path) -> Run:
    """Read the run in this folder; AssertionError if it is not complete."""
    with h5py.File(folder / "run.h5", "r", locking=False) as file:
        assert file.attrs["status"] in ("done", "diverged")
        groups = {
            group: {k: v[:] for k, v in file.get(group, {}).items() if not v.is_scale}
            for group in ("train", "eval", "algorithm")
        }
        return Run(
            x=file["final/x"][:],
            train=groups["train"],
            eval=groups["eval"],
            weights=file["topology/weights"][:],
            parameters=int(file.attrs["parameters"]),
            algorithm=groups["algorithm"],
            schedule=[rows[...].tobytes() for rows in file.get("schedule", {}).values()],
        )


def new_folder(folder: Path) -> Path:
    """Return the path of a run folder inside `folder` that does not exist yet."""
    return folder / f"run-{len(list(folder.glob('run-*')))}"


def run_in_threads(table: Table, folder: Path, resume: Path | None = None) -> Run:
    """Run all peers as threads of this process, as --debug does; return the run.

    folder: relative paths of the table start from it, and the run folder is created in it. resume:
    run folder of a run to resume instead.
    """
    run_folder = resume or new_folder(folder)
    # Tests change the peers' files, which run.h5 shows then.
    table = {**table, "run": {"join": 0, **table.get("run", {})}}
    run_threads_in(table, folder, run_folder, resume=resume is not None)
    return read(run_folder)


def run_threads_in(
    table: Table, folder: Path, run_folder: Path, resume: bool = False, asks: int = 0
) -> None:
    """Run or resume an experiment in `run_folder`, with all peers as threads of this process.

    asks: every peer requests a stop at its `asks`-th query, which ends the run with StoppedError;
    0 for no request.
    """
    ranks.one_thread()

    def body(transport: Transport) -> None:
        remaining = iter(range(asks - 1, -1, -1))
        # Each peer needs a deep copy: the table is shared, and resolving it may fill in defaults.
        loaded = scenario.load(sweep.assign(table, ()), folder)
        session.run_peer(
            loaded,
            transport,
            run_folder,
            resume=resume,
            stop_requested=lambda: next(remaining, 1) == 0,
        )

    run_threads(table["peers"], body)


def run_quadratic(problem: Problem, folder: Path, algorithm: str | Table, **options: Any) -> Run:
    """Run the experiment of `quadratic_table` with all peers as threads; return the run."""
    return run_in_threads(quadratic_table(problem, folder, algorithm, **options), folder)


def run_mpi(
    table: Table, folder: Path, settings: Sequence[str] = (), limit: float = 120
) -> tuple[Run, str]:
    """Run by the command line under mpiexec; return the run and its standard output.

    AssertionError if the exit code is not 0, subprocess.TimeoutExpired after `limit` seconds.
    """
    file, run_folder = folder / "experiment.toml", new_folder(folder)
    file.write_text(tomli_w.dumps(table), encoding="utf-8")
    options = [part for setting in settings for part in ("--set", setting)]
    arguments = ["run", str(file), *options, "--out", str(run_folder)]
    command = [sys.executable, "-m", "p2psim", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=folder)
    assert result.returncode == 0, result.stderr
    return read(run_folder), result.stdout


def difference(result: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return ||result - expected||_F / ||expected||_F; NaN if one of them is not finite."""
    expected = np.asarray(expected, np.float64)
    return float(np.linalg.norm(result.astype(np.float64) - expected) / np.linalg.norm(expected))
