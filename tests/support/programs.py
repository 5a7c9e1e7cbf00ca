"""Using p2psim from tests as a user does: its command line, right and wrong, and broken files.

Programs are started for real, alone or under mpiexec. Each gets a session of its own, so that a
test can signal it as a terminal does, and so that nothing of it outlives the test.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

import h5py
import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner, Result

from p2psim.cli import main
from p2psim.experiment.sweep import put
from p2psim.launcher import ranks
from p2psim.launcher.ranks import THREADS

Table: TypeAlias = dict[str, Any]
GOOD: Table = {
    "peers": 8,
    "rounds": 2,
    "data": {"name": "digits", "partition": {"name": "skew", "s": 0.8}, "batch_size": 16},
    "model": {"name": "mlp", "hidden": [8]},
    "learning": {"optimizer": {"name": "sgd", "lr": 0.05}},
    "algorithm": {
        "name": "choco-sgd",
        "gamma": 0.4,
        "compressor": {"name": "top-k", "keep": 0.1},
    },
    "topology": {"name": "ring", "weights": "metropolis"},
    "time": {"compute": {"name": "constant"}, "link": {"latency": 1e-3}},
    "eval": {"every": 1},
}
QUADRATIC: Table = {
    "peers": 4,
    "data": {"name": "quadratic", "file": "problem.npz"},
    "model": {"name": "vector"},
}
GONE = object()  # stands for a key that is taken out
# What an mpiexec around the tests, or an earlier run inside them, may have left behind.
FOREIGN = (
    *("PMI", "OMPI_COMM_", "PRTE_", "HYD", "SLURM_JOB", "SLURM_STEP", "SLURM_PROCID"),
    *("P2PSIM_LAUNCHED", "P2PSIM_PEERS", "P2PSIM_MPIEXEC", "P2PSIM_PMI"),
)


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    stdout: str
    stderr: str
    at: float  # time.time() when its end was seen

    def said(self) -> list[str]:
        """p2psim's own lines on stderr; mpiexec and the progress bar have theirs."""
        return [line for line in self.stderr.splitlines() if line.startswith("p2psim: ")]


class Started:
    """A program that runs while the test goes on; as a context manager it is killed at the end."""

    def __init__(
        self, command: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        # Files in place of pipes: whoever inherits a pipe can keep its reader waiting.
        self.out, self.err = TemporaryFile(), TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.out,
            stderr=self.err,
            cwd=folder,
            env={**environment(), **(variables or {})},
            start_new_session=True,
        )

    def __enter__(self) -> Started:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self.out.close()
        self.err.close()

    def end(self, limit: float) -> Ended:
        """Wait for its end; AssertionError with what it said after `limit` seconds."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            text = self.text(self.out) + self.text(self.err)
            raise AssertionError(f"still running after {limit} s; it said:\n{text}") from None
        return Ended(code, self.text(self.out), self.text(self.err), time.time())

    @staticmethod
    def text(file: Any) -> str:
        """All that is in an output file so far."""
        file.seek(0)
        return str(file.read().decode(errors="replace"))

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End it and all that it started, and nothing else."""
        if self.process.poll() is not None:
            return
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def descendants(pid: int) -> list[int]:
    """Children, their children and so on: ranks may have left the group of their launcher."""
    answer = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
    children: dict[int, list[int]] = {}
    for line in answer.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has collected yet does not."""
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return answer.stdout.strip()[:1] not in ("", "Z", "X")


def gone(pids: Sequence[int], limit: float = 10) -> bool:
    """Whether none of these processes runs any more, at the latest after `limit` seconds."""
    end = time.monotonic() + limit
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def pids(run: Path) -> list[int]:
    """The process of every peer of a run, by rank."""
    made = []
    for path in sorted((run / "peers").glob("peer-*.h5")):
        with h5py.File(path, "r", locking=False) as file:
            made.append(int(file.attrs["pid"]))
    return made


def environment() -> dict[str, str]:
    """This environment without MPI's own variables and without limits on threads."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    # No silent fallback: where ranks cannot be forked, the test fails.
    return {"P2PSIM_START": "forkserver", **{k: v for k, v in kept.items() if k not in THREADS}}


def write(folder: Path, table: Mapping[str, Any], name: str = "experiment.toml") -> Path:
    """An experiment file."""
    path = folder / name
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    return path


def p2psim(*arguments: object) -> list[str]:
    """The command line `p2psim ARGUMENTS` of this very interpreter."""
    return [sys.executable, "-m", "p2psim", *map(str, arguments)]


def under_mpiexec(n: int, command: Sequence[str]) -> list[str]:
    """`mpiexec -n N COMMAND`, with what this MPI library needs on a small machine."""
    mpiexec, library = ranks.find_mpiexec()
    flags = {
        "mpich": [],
        "openmpi": [
            *(["--allow-run-as-root"] if os.getuid() == 0 else []),
            *("--oversubscribe", "--bind-to", "none"),
        ],
    }
    return [mpiexec, *flags[library], "-n", str(n), *command]


def run(
    command: Sequence[str],
    folder: Path,
    limit: float = 120,
    variables: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program to its end, with these environment variables."""
    with Started(command, folder, variables) as started:
        return started.end(limit)


class Bench:
    """A folder with an experiment in it, and the command line called in this process."""

    def __init__(self, folder: Path, table: Table) -> None:
        self.folder, self.file = folder, write(folder, table)

    def here(self) -> dict[str, bytes]:
        """Every file and its content; Python's own cache does not count."""
        found = [p for p in self.folder.rglob("*") if "__pycache__" not in p.parts]
        return {str(p): p.read_bytes() if p.is_file() else b"" for p in found}

    def call(self, *arguments: object) -> Result:
        """p2psim ARGUMENTS."""
        return CliRunner().invoke(main, [str(a) for a in arguments])

    def refused(self, *fragments: str, call: tuple[object, ...] = ()) -> None:
        """The call ends as a user's mistake should; by default run and plan are both tried."""
        file = self.file
        for one in [call] if call else [("run", file, "--out", "out"), ("plan", file)]:
            before = self.here()
            result = self.call(*one)
            assert isinstance(result.exception, SystemExit), f"{one}: {result.exception!r}"
            assert_refused(result.exit_code, result.stderr, fragments)
            changes = self.here().keys() ^ before.keys()
            assert self.here() == before, f"left behind or gone: {sorted(changes)}"


def assert_refused(code: int, stderr: str, fragments: Sequence[str]) -> None:
    """Exit code 2; one line on stderr, which is p2psim's and holds the fragments."""
    assert code == 2, stderr
    assert len(stderr.splitlines()) == 1, stderr
    assert stderr.startswith("p2psim: "), stderr
    for fragment in fragments:
        assert fragment in stderr, f"{fragment!r} is not in {stderr!r}"


def changed(table: Table, changes: Table) -> Table:
    """The table with these changes by dotted key; GONE takes a key out."""
    table = deepcopy(dict(table))
    for key, value in changes.items():
        if value is GONE:
            *parents, last = key.split(".")
            inner = table
            for parent in parents:
                inner = inner[parent]
            del inner[last]
        else:
            put(table, key, deepcopy(value))
    return table


def idx(values: int, *sizes: int, magic: int = 2048) -> bytes:
    """An idx file that says it has these sizes and holds `values` zeros."""
    return struct.pack(f">{1 + len(sizes)}I", magic + len(sizes), *sizes) + bytes(values)


def mnist(folder: Path, **damaged: bytes) -> None:
    """A data folder with 40 + 40 black images, some files replaced."""
    place = folder / "data" / "mnist"
    place.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = damaged.get(f"{part}_images", idx(160, 40, 2, 2))
        (place / f"{part}-images-idx3-ubyte").write_bytes(images)
        labels = damaged.get(f"{part}_labels", idx(40, 40))
        (place / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def cifar10(folder: Path, batch: bytes, test: bytes | None = None) -> None:
    """A data folder with these bytes for every batch."""
    place = folder / "data" / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for name in [f"data_batch_{number}" for number in range(1, 6)]:
        (place / name).write_bytes(batch)
    (place / "test_batch").write_bytes(batch if test is None else test)


class Malicious:
    """Unpickled carelessly, it makes a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def text(name: str, content: str) -> Callable[[Path], object]:
    """Something that writes this file into a folder."""
    return lambda folder: (folder / name).write_text(content)


def arrays(**given: Any) -> Callable[[Path], None]:
    """Something that writes these arrays as problem.npz."""
    return lambda folder: np.savez(folder / "problem.npz", **given)


def nothing(folder: Path) -> None:
    """Something that writes no file."""


def bench_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The experiment GOOD in a folder where no mistake can start ranks; data sets are in data/."""

    def start(*_: object) -> NoReturn:
        raise AssertionError("the mistake was not seen: ranks would have been started")

    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ranks, "start", start)
    monkeypatch.setenv("P2PSIM_DATA", str(folder / "data"))
    monkeypatch.chdir(folder)
    a, b, x0 = np.ones((4, 2, 3)), np.ones((4, 2)), np.ones((4, 3))
    np.savez(folder / "problem.npz", A=a, b=b, x0=x0)
    return Bench(folder, GOOD)
