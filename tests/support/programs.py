"""Programs started by tests, experiment tables with mistakes, and damaged data files.

Tests use p2psim by its command line, as a user does. Programs are real processes, started alone or
under mpiexec. Each one has a session of its own: a test can send it the signals of a terminal, and
all its processes can be ended with the test.
"""

from __future__ import annotations

import os
import shutil
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
from filelock import FileLock

from p2psim.analysis import results
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
REMOVED = object()  # value that marks a key to delete
# Prefixes of environment variables that an mpiexec around the tests, or an earlier run, may set.
FOREIGN = (
    *("PMI", "OMPI_COMM_", "PRTE_", "HYD", "SLURM_JOB", "SLURM_STEP", "SLURM_PROCID"),
    *("P2PSIM_LAUNCHED", "P2PSIM_PEERS", "P2PSIM_MPIEXEC", "P2PSIM_PMI"),
)


@dataclass(frozen=True)
class Completed:
    """Result of a program that has ended."""

    code: int
    stdout: str
    stderr: str
    at: float  # time.time() when the end was noticed

    def messages(self) -> list[str]:
        """Return the lines of p2psim on stderr, without those of mpiexec and the progress bar."""
        return [line for line in self.stderr.splitlines() if line.startswith("p2psim: ")]


class Program:
    """Program that runs beside the test; as a context manager it is killed at the end."""

    def __init__(
        self, command: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        # Files instead of pipes: the reader of a pipe waits until every process that inherited it
        # has ended.
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

    def __enter__(self) -> Program:
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

    def end(self, limit: float) -> Completed:
        """Wait until the program ends; AssertionError with its output after `limit` seconds."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            output = self.text(self.out) + self.text(self.err)
            raise AssertionError(f"still running after {limit} s; output:\n{output}") from None
        return Completed(code, self.text(self.out), self.text(self.err), time.time())

    @staticmethod
    def text(file: Any) -> str:
        """Return the whole content of an output file."""
        file.seek(0)
        return str(file.read().decode(errors="replace"))

    def interrupt(self) -> None:
        """Send SIGINT to the whole process group, as Ctrl-C does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill the program and all its descendants, if it still runs."""
        if self.process.poll() is not None:
            return
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def wait_for_rounds(run: Path, program: Program, rounds: int = 1) -> None:
    """Wait until all peers of a run have completed so many rounds.

    AssertionError if its program ends before, or after a minute.
    """
    end = time.monotonic() + 60
    while (state := results.progress(run)) is None or state[0] < rounds:
        assert program.process.poll() is None, program.text(program.err)
        assert time.monotonic() < end, program.text(program.err)
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Return the children of a process, their children and so on.

    A process group is not enough: ranks may have left the group of their launcher.
    """
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
    children: dict[int, list[int]] = {}
    for line in listing.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    processes = [pid]
    for process in processes:  # the list grows while it is iterated
        processes += children.get(process, [])
    return processes[1:]


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie process does not."""
    listing = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return listing.stdout.strip()[:1] not in ("", "Z", "X")


def wait_until_ended(pids: Sequence[int], limit: float = 10) -> bool:
    """Wait until these processes have ended; return False if one still runs after `limit` s."""
    end = time.monotonic() + limit
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def pids(run: Path) -> list[int]:
    """Return the process ids of the peers of a run, by rank."""
    process_ids = []
    for path in sorted((run / "peers").glob("peer-*.h5")):
        with h5py.File(path, "r", locking=False) as file:
            process_ids.append(int(file.attrs["pid"]))
    return process_ids


def environment() -> dict[str, str]:
    """Return the environment variables without those of MPI and those that limit threads."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    variables = {k: v for k, v in variables.items() if k not in THREADS}
    # The fork server is required: without this setting, p2psim would start ranks in another way
    # where they cannot be forked, and the test would not notice.
    return {"P2PSIM_START": "forkserver", **variables}


def write(folder: Path, table: Mapping[str, Any], name: str = "experiment.toml") -> Path:
    """Write a table as an experiment file; return its path."""
    path = folder / name
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    return path


def p2psim(*arguments: object) -> list[str]:
    """Return the command line `p2psim ARGUMENTS` for this Python interpreter."""
    return [sys.executable, "-m", "p2psim", *map(str, arguments)]


def under_mpiexec(n: int, command: Sequence[str]) -> list[str]:
    """Return `mpiexec -n N COMMAND`, with the options that this MPI library needs on few cores."""
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
) -> Completed:
    """Run a program to its end, with these additional environment variables; return its result."""
    with Program(command, folder, variables) as started:
        return started.end(limit)


def invoke(*arguments: object) -> Result:
    """Call `p2psim ARGUMENTS` in this process, which has imported torch already."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` has filled, once for all processes of this run of the tests."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    complete = folder / "complete"
    with FileLock(folder.with_suffix(".lock")):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder


class Bench:
    """Folder with an experiment, in which the command line is called without a new process."""

    def __init__(self, folder: Path, table: Table) -> None:
        self.folder, self.file = folder, write(folder, table)

    def contents(self) -> dict[str, bytes]:
        """Return the content of every file and folder by path, without Python's own cache."""
        paths = [p for p in self.folder.rglob("*") if "__pycache__" not in p.parts]
        return {str(p): p.read_bytes() if p.is_file() else b"" for p in paths}

    def check_refused(self, *fragments: str, call: tuple[object, ...] = ()) -> None:
        """Assert that a call is refused as a mistake of the user and changes no file.

        By default, both `run` and `plan` are called. fragments: texts of the error message.
        """
        file = self.file
        for arguments in [call] if call else [("run", file, "--out", "out"), ("plan", file)]:
            before = self.contents()
            result = invoke(*arguments)
            assert isinstance(result.exception, SystemExit), f"{arguments}: {result.exception!r}"
            assert_refused(result.exit_code, result.stderr, fragments)
            changes = self.contents().keys() ^ before.keys()
            assert self.contents() == before, f"files that were added or removed: {sorted(changes)}"


def assert_refused(code: int, stderr: str, fragments: Sequence[str]) -> None:
    """Assert exit code 2 and a single line on stderr, by p2psim and with all fragments."""
    assert code == 2, stderr
    assert len(stderr.splitlines()) == 1, stderr
    assert stderr.startswith("p2psim: "), stderr
    for fragment in fragments:
        assert fragment in stderr, f"{fragment!r} is not in {stderr!r}"


def with_changes(table: Table, changes: Table) -> Table:
    """Return the table with these changes by dotted key; the value REMOVED deletes a key."""
    table = deepcopy(dict(table))
    for key, value in changes.items():
        if value is REMOVED:
            *parents, last = key.split(".")
            inner = table
            for parent in parents:
                inner = inner[parent]
            del inner[last]
        else:
            put(table, key, deepcopy(value))
    return table


def idx(values: int, *sizes: int, magic: int = 2048) -> bytes:
    """Return an idx file whose header gives these sizes and whose data are `values` zeros."""
    return struct.pack(f">{1 + len(sizes)}I", magic + len(sizes), *sizes) + bytes(values)


def mnist(folder: Path, **damaged: bytes) -> None:
    """Write a data folder with 40 + 40 black images; `damaged` replaces the content of files."""
    home = folder / "data" / "mnist"
    home.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = damaged.get(f"{part}_images", idx(160, 40, 2, 2))
        (home / f"{part}-images-idx3-ubyte").write_bytes(images)
        labels = damaged.get(f"{part}_labels", idx(40, 40))
        (home / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def cifar10(folder: Path, batch: bytes, test: bytes | None = None) -> None:
    """Write a data folder with these bytes as every batch; `test` replaces the test batch."""
    home = folder / "data" / "cifar-10-batches-py"
    home.mkdir(parents=True)
    for name in [f"data_batch_{number}" for number in range(1, 6)]:
        (home / name).write_bytes(batch)
    (home / "test_batch").write_bytes(batch if test is None else test)


class Malicious:
    """Object that creates a folder when an unsafe reader unpickles it."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def text_file(name: str, content: str) -> Callable[[Path], object]:
    """Return a function that writes this text file into a folder."""
    return lambda folder: (folder / name).write_text(content)


def npz_file(**values: Any) -> Callable[[Path], None]:
    """Return a function that writes these arrays into a folder as problem.npz."""
    return lambda folder: np.savez(folder / "problem.npz", **values)


def no_file(folder: Path) -> None:
    """Write no file."""


def bench_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a Bench with the experiment GOOD whose data sets are in data/.

    The test fails if a call would start ranks.
    """

    def start(*_: object) -> NoReturn:
        raise AssertionError("the mistake was not detected: ranks would have been started")

    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ranks, "start", start)
    monkeypatch.setenv("P2PSIM_DATA", str(folder / "data"))
    monkeypatch.chdir(folder)
    a, b, x0 = np.ones((4, 2, 3)), np.ones((4, 2)), np.ones((4, 3))
    np.savez(folder / "problem.npz", A=a, b=b, x0=x0)
    return Bench(folder, GOOD)
