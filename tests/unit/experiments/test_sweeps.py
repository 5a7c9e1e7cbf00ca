"""Sweeps of the harness: which of them run at a time, and failures."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from experiments.harness import sweeps
from p2psim.errors import STOPPED

# A stand-in for `p2psim run`: it writes when it began and when it ended, and exits with a code.
PROGRAM = """
import signal, sys, time
from pathlib import Path
place, seconds, code = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
place.mkdir(exist_ok=True)
began = time.monotonic()
try:
    time.sleep(seconds)
finally:
    (place / "times").write_text(f"{began} {time.monotonic()}")
sys.exit(code)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    return tmp_path


def sweep(place: Path, name: str, debug: bool, seconds: float = 0.5, code: int = 0) -> sweeps.Sweep:
    arguments = [str(place / name), str(seconds), str(code)]
    return sweeps.Sweep(["program", *arguments], place / name, debug)


def times(place: Path, name: str) -> list[float]:
    """Return when a sweep began and when it ended."""
    return [float(number) for number in (place / name / "times").read_text().split()]


def overlap(place: Path, one: str, other: str) -> bool:
    (begin, end), (start, stop) = times(place, one), times(place, other)
    return begin < stop and start < end


def test_one_sweep_of_one_process_for_each_core(place: Path) -> None:
    plan = [(f"d{k}", True) for k in range(3)] + [("m", False), ("d3", True)]
    sweeps.run_all([sweep(place, name, debug) for name, debug in plan])
    assert overlap(place, "d0", "d1")
    assert not (overlap(place, "d0", "d2") and overlap(place, "d1", "d2"))
    assert not any(overlap(place, "m", name) for name in ("d0", "d1", "d2", "d3"))
    assert all(sweeps.costs(place / name)["wall"] > 0 for name, _ in plan)


def test_a_failure_stops_the_others(place: Path) -> None:
    plan = [sweep(place, "d0", True, 60.0), sweep(place, "d1", True, 0.3, code=3)]
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        sweeps.run_all([*plan, sweep(place, "d2", True)])
    assert ended.value.code == 3
    assert time.monotonic() - began < 40
    assert not (place / "d2").exists()


def test_a_stopped_sweep_is_an_interruption(place: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweeps.run_all([sweep(place, "d0", True, 0.0, code=STOPPED)])
