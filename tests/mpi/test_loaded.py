"""No result depends on how fast a process is: random delays, and other work on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mpi.test_same_bits import VARIANTS, Reference, assert_same, by_debug
from tests.support.programs import Table, p2psim, run, write
from tests.support.thorough import thorough

# Virtual times of an exponential, and real delays that nobody can foresee.
DELAYS = """
import random, sys, time
from p2psim.registry import plugin
from p2psim.network.step_times import Exponential

@plugin("compute", "delayed")
class Delayed(Exponential):
    mean: float = 0.05

    def seconds(self, rank, step):
        mpi = sys.modules.get("mpi4py.MPI")  # the launcher asks for the times as well
        if mpi and mpi.Is_initialized():
            time.sleep(random.SystemRandom().random() ** 4 * 0.05)
        return super().seconds(rank, step)
"""
PLAIN: Table = {"name": "exponential", "mean": 0.05}
NAMES = ("lgc-sgd", "async-gossip", *map(thorough, ("k-sgd", "d-psgd-atc")))


def timed(name: str, compute: str | Table) -> Table:
    """A variant with this compute model."""
    return {**VARIANTS[name], "time": {**VARIANTS[name]["time"], "compute": compute}}


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that compute and do nothing else."""
    with ExitStack() as stack:
        for _ in range(processes):
            spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.enter_context(spin)
            stack.callback(spin.kill)
        yield


@pytest.fixture
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A function that returns the run folder of an experiment by name, made by --debug."""
    return lambda name: by_debug(tmp_path_factory, f"loaded-{name}", timed(name, PLAIN))


@pytest.mark.parametrize("name", NAMES)
def test_random_delays_change_nothing(name: str, undisturbed: Reference, tmp_path: Path) -> None:
    (tmp_path / "delays.py").write_text(DELAYS)
    file = write(tmp_path, timed(name, "delays.py:Delayed"))
    ended = run(p2psim("run", file, "--out", "out"), tmp_path)
    assert ended.code == 0, ended.stderr
    assert_same(tmp_path / "out", undisturbed(name))


@pytest.mark.skipif("LOAD" not in os.environ, reason="minutes: make test-load")
@pytest.mark.parametrize("processes", [4, 48])
@pytest.mark.parametrize("name", ["lgc-sgd", "async-gossip"])
def test_other_work_changes_nothing(
    name: str, processes: int, undisturbed: Reference, tmp_path: Path
) -> None:
    file = write(tmp_path, timed(name, PLAIN))
    with load(processes):
        ended = run(p2psim("run", file, "--out", "out"), tmp_path, 900)
    assert ended.code == 0, ended.stderr
    assert_same(tmp_path / "out", undisturbed(name))
