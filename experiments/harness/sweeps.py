"""Starts of experiment files by `p2psim run`, several at a time where each keeps one core busy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2psim.errors import STOPPED
from p2psim.launcher.processes import members, memory

SAMPLE = 5.0  # seconds between two measurements of memory
COSTS = "cost.json"


@dataclass(frozen=True)
class Sweep:
    """Runs of an experiment file: the command that starts them, and the folder that holds them."""

    command: Sequence[str]
    place: Path
    debug: bool  # all peers are threads of one process, which keeps one core busy


class Started:
    """A sweep whose process runs; its wall time and peak memory are added to its costs."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, place = sweep, sweep.place
        resume = ["--resume"] if any(place.glob("**/run.h5")) else []
        command = [sys.executable, "-m", *sweep.command, *resume]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.before, self.began = costs(place), time.monotonic()
        self.peak = self.before["memory"]

    def measure(self) -> None:
        """Store the costs so far: the process may be killed at any time."""
        self.peak = max(self.peak, sum(map(memory, members(self.process.pid))))
        wall = self.before["wall"] + time.monotonic() - self.began
        if self.sweep.place.is_dir():
            text = json.dumps({"wall": wall, "memory": self.peak})
            (self.sweep.place / COSTS).write_text(text)


def costs(place: Path) -> dict[str, float]:
    """Return the wall time (s) and peak memory (GB) of the runs in a folder so far."""
    file = place / COSTS
    return json.loads(file.read_text()) if file.exists() else {"wall": 0.0, "memory": 0.0}


def run_all(sweeps: Sequence[Sweep]) -> None:
    """Start sweeps or resume them, in their order; raise SystemExit if one of them fails.

    As many sweeps of one process as there are cores run at a time, all others alone. If one fails
    or is stopped, the others are stopped as well: the same call resumes them.
    """
    waiting, running, code = [*sweeps], list[Started](), 0
    # Ctrl-C reaches the whole process group, SIGTERM this process alone: pass it on.
    previous = signal.signal(signal.SIGTERM, lambda *_: terminate(running))
    try:
        while running or (waiting and not code):
            while not code and waiting and fits(waiting[0], running):
                running.append(Started(waiting.pop(0)))
            wait(running)
            for started in [s for s in running if s.process.poll() is not None]:
                started.measure()
                running.remove(started)
                if started.process.returncode and not code:
                    code = started.process.returncode
                    terminate(running)
    except KeyboardInterrupt:
        for started in running:
            started.process.wait()  # it writes its last checkpoint
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    if code == STOPPED:
        raise KeyboardInterrupt
    if code:
        sys.exit(code)


def fits(sweep: Sweep, running: Sequence[Started]) -> bool:
    """Return True if a sweep can start beside those that run."""
    if not running:
        return True
    single = sweep.debug and all(started.sweep.debug for started in running)
    return single and len(running) < len(os.sched_getaffinity(0))


def wait(running: Sequence[Started]) -> None:
    """Measure the costs of sweeps, and wait until one ends or the next measurement is due."""
    for started in running:
        started.measure()
    end = time.monotonic() + SAMPLE
    while time.monotonic() < end and all(s.process.poll() is None for s in running):
        time.sleep(0.05)


def terminate(running: Sequence[Started]) -> None:
    """Ask sweeps to stop."""
    for started in running:
        started.process.terminate()
