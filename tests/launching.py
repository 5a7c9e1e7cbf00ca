"""Starting p2psim from tests as a user does: as a program of its own, alone or under mpiexec.

Every program gets a session of its own, so that a test can signal it as a terminal does, and so
that nothing of it outlives the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, TypeAlias

import h5py
import tomli_w

from p2psim.launcher import ranks

Table: TypeAlias = dict[str, Any]
# What an mpiexec around the tests, or an earlier run inside them, may have left behind.
FOREIGN = ("PMI", "OMPI_COMM_", "PRTE_", "HYD", "P2PSIM_LAUNCHED", "P2PSIM_PEERS", "P2PSIM_MPIEXEC")


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

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        # Files in place of pipes: whoever inherits a pipe can keep its reader waiting.
        self.files = ExitStack()
        self.out = self.files.enter_context(TemporaryFile())
        self.err = self.files.enter_context(TemporaryFile())
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.out,
            stderr=self.err,
            cwd=folder,
            env=environment(),
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
        self.files.close()

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
    return {k: v for k, v in kept.items() if k not in ranks.THREADS}


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


def run(command: Sequence[str], folder: Path, limit: float = 120) -> Ended:
    """Run a program to its end."""
    with Started(command, folder) as started:
        return started.end(limit)
