"""Running experiments from tests: problems, tables, threads or mpiexec, and what came out."""

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
from p2psim.network.transport import Transport, run_threads
from p2psim.simulation import session

Matrix: TypeAlias = NDArray[np.float64]
Table: TypeAlias = dict[str, Any]
# A run of a second or two, as its file.
EXPERIMENT = """
name = "small"
peers = 4
rounds = 6
data = { name = "digits", batch_size = 16 }
model = { name = "mlp", hidden = [8] }
topology = { name = "ring" }
algorithm = { name = "choco-sgd", gamma = 0.4 }
eval = { every = 2 }
"""


@dataclass(frozen=True)
class Problem:
    """f_i(x) = ||A_i x - b_i||^2 / (2 m), and every peer's first x."""

    A: Matrix  # (n, m, d)
    b: Matrix  # (n, m)
    x0: Matrix  # (n, d)

    @property
    def peers(self) -> int:
        return len(self.A)

    def write(self, path: Path) -> Path:
        """The file that data = "quadratic" reads."""
        np.savez(path, A=self.A, b=self.b, x0=self.x0)
        return path


def quadratics(n: int, d: int = 12, seed: int = 0, *, same_start: bool = False) -> Problem:
    """Heterogeneous random least squares: every peer has another A, b, minimizer and start."""
    random = np.random.default_rng(seed)
    m = 3 * d
    a = random.standard_normal((n, m, d))
    own = 1 + random.standard_normal((n, d))
    b = np.einsum("nmd,nd->nm", a, own) + 0.1 * random.standard_normal((n, m))
    start = random.standard_normal((n, d))
    return Problem(a, b, np.repeat(start[:1], n, axis=0) if same_start else start)


def gossip(n: int, d: int = 12, seed: int = 0) -> Problem:
    """A = 0: every gradient is exactly 0, so nothing but the mixing moves x."""
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
    """The experiment that runs `algorithm` on `problem`; the file is written into `folder`."""
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
    """What a run left in run.h5; the first axis is the peer."""

    x: NDArray[Any]  # /final/x, in the run's own type
    train: dict[str, NDArray[Any]]
    eval: dict[str, NDArray[Any]]
    weights: Matrix  # (period, n, n)
    parameters: int
    algorithm: dict[str, NDArray[Any]]  # what it records itself
    schedule: list[bytes]  # of each peer

    def datasets(self) -> dict[str, bytes]:
        """Every number that must be the same whenever the experiment is run again."""
        made = {"final/x": self.x.tobytes()}
        made |= {f"schedule/{rank}": events for rank, events in enumerate(self.schedule)}
        own = {"train": self.train, "eval": self.eval, "algorithm": self.algorithm}
        for group, columns in own.items():
            made |= {f"{group}/{k}": v.tobytes() for k, v in columns.items() if k != "wall"}
        return made


def read(folder: Path) -> Run:
    """The run in this folder, which must have ended well."""
    with h5py.File(folder / "run.h5", "r", locking=False) as file:
        assert file.attrs["status"] == "done"
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
    """A run folder inside `folder` that does not exist yet."""
    return folder / f"run-{len(list(folder.glob('run-*')))}"


def run_here(table: Table, folder: Path, resume: Path | None = None) -> Run:
    """Run all peers as threads of this process (what --debug does); files are in `folder`.

    With `resume` the run in that folder goes on.
    """
    place = resume or new_folder(folder)
    be_threads(table, folder, place, resume=resume is not None)
    return read(place)


def be_threads(
    table: Table, folder: Path, place: Path, resume: bool = False, asks: int = 0
) -> None:
    """Run or resume in `place`; StoppedError when the peers have asked `asks` times to stop."""
    ranks.one_thread()

    def body(wire: Transport) -> None:
        left = iter(range(asks - 1, -1, -1))
        # A deep copy each: a table is shared by all peers, and resolving it may fill in defaults.
        ready = scenario.load(sweep.assign(table, ()), folder)
        session.run_peer(ready, wire, place, resume=resume, asked=lambda: next(left, 1) == 0)

    run_threads(table["peers"], body)


def run_quadratic(problem: Problem, folder: Path, algorithm: str | Table, **options: Any) -> Run:
    """`quadratic_table` and `run_here`."""
    return run_here(quadratic_table(problem, folder, algorithm, **options), folder)


def run_mpi(
    table: Table, folder: Path, settings: Sequence[str] = (), limit: float = 120
) -> tuple[Run, str]:
    """Run through the command line under mpiexec; (the run, what it printed).

    AssertionError where the exit code is not 0, subprocess.TimeoutExpired after `limit` seconds.
    """
    file, place = folder / "experiment.toml", new_folder(folder)
    file.write_text(tomli_w.dumps(table), encoding="utf-8")
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "p2psim", "run", str(file), *options, "--out", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=folder)
    assert done.returncode == 0, done.stderr
    return read(place), done.stdout


def difference(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    """||got - wanted||_F / ||wanted||_F, and NaN where one of them is not finite."""
    wanted = np.asarray(wanted, np.float64)
    return float(np.linalg.norm(got.astype(np.float64) - wanted) / np.linalg.norm(wanted))
