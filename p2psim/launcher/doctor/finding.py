"""What a check says, and what all checks need."""

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
    """One line: `check` was looked at, and found to be so; what to do stands in the text."""

    level: str  # OK, WARNING: it may go wrong or disturb others, PROBLEM: it must be mended
    check: str
    text: str


Check: TypeAlias = Callable[[], Iterable[Finding]]


@dataclass(frozen=True)
class Plan:
    """What the machine is to be good for. Without an experiment only the folder is known."""

    folder: Path  # of the run
    peers: int | None = None
    scenario: Any = None  # scenario.Scenario, which needs libraries that may be broken

    @property
    def here(self) -> int | None:
        """Peers on this machine, in equal shares over the nodes of a Slurm job."""
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        return None if self.peers is None else math.ceil(self.peers / nodes)


def guarded(name: str, check: Check) -> list[Finding]:
    """What the check found; that it could not be made is a problem, too."""
    try:
        return list(check())
    except InputError as error:
        return [Finding(PROBLEM, name, str(error))]
    except Exception as error:  # whatever is broken here, the other checks go on
        return [Finding(PROBLEM, name, f"cannot be checked ({type(error).__name__}: {error})")]


def ask(command: Sequence[str], limit: float, **more: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a program that is ended after `limit` seconds, as 124.

    `more` is added to its environment.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    ) as process:
        try:
            out, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.terminate()  # an mpiexec ends its ranks
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            return 124, "", f"no answer after {limit:g} s"
    return process.returncode, out, errors


def last_line(text: str) -> str:
    """What a program said last, which mostly is the cause."""
    return (text.strip().splitlines() or ["without a word"])[-1].strip()


def amount(number: float) -> str:
    """Bytes for people."""
    power = min(4, int(math.log2(max(1.0, number))) // 10)
    return f"{number / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
