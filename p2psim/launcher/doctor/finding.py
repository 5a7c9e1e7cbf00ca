"""Findings of the doctor, and functions that its checks share."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from p2psim.errors import InputError

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """Result of one check: a line with its level, its name and a text that contains the remedy."""

    level: str  # OK; WARNING: runs may fail or disturb others; PROBLEM: runs fail
    check: str
    text: str


Check: TypeAlias = Callable[[], Iterable[Finding]]


@dataclass(frozen=True)
class Examination:
    """Run that the machine is examined for; without an experiment only its folder is known."""

    folder: Path  # of the run
    peers: int | None = None
    scenario: Any = (
        None  # not typed as Scenario, whose import requires libraries that may be broken
    )

    @property
    def local_peers(self) -> int | None:
        """Peers on this node, if a Slurm job distributes them equally over its nodes."""
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        return None if self.peers is None else math.ceil(self.peers / nodes)


def run_check(name: str, check: Check) -> list[Finding]:
    """Return the findings of a check; an exception in it is a problem, too."""
    try:
        return list(check())
    except InputError as error:
        return [Finding(PROBLEM, name, str(error))]
    except Exception as error:  # the other checks must still run
        return [Finding(PROBLEM, name, f"cannot be checked ({type(error).__name__}: {error})")]


def run_program(command: Sequence[str], limit: float, **variables: str) -> tuple[int, str, str]:
    """Run a program; returns its exit code, stdout and stderr.

    After `limit` seconds the program is terminated, and the exit code is 124. `variables` are added
    to its environment.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        try:
            out, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.terminate()  # not kill: mpiexec has to end its ranks
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            return 124, "", f"no answer after {limit:g} s"
    return process.returncode, out, errors


def last_line(text: str) -> str:
    """Return the last line of a program's output, which usually is the cause of a failure."""
    return (text.strip().splitlines() or ["no output"])[-1].strip()


def format_bytes(count: float) -> str:
    """Format a number of bytes with a binary unit, such as 1.5 GiB."""
    power = min(4, int(math.log2(max(1.0, count))) // 10)
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
