"""Jobs of the local Slurm, from tests: submitted by p2psim, watched by Slurm's own commands."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from p2psim.analysis import results
from tests.support.programs import Table, p2psim, run, write

LIMIT = 200  # seconds, for what takes some tens on an idle machine
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
PEERS, ROUNDS = 3, 400
# The first start of a job takes 100 s and more, so that it does not come to the end of it.
SLOW = """
import os, time
from p2psim.algorithms.choco_sgd import ChocoSGD
from p2psim.registry import plugin

@plugin("algorithm", "slow")
class Slow(ChocoSGD):
    fails: bool = False

    def local(self, x, oracle, net):
        if self.fails and net.rank == 1 and oracle.step_count == 5:
            raise ArithmeticError("the cause")
        if "SLURM_JOB_ID" in os.environ and "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(0.25)
        return super().local(x, oracle, net)
"""


def slow(folder: Path, **algorithm: object) -> Table:
    """An experiment that only the second start of a job brings to its end; its plug-in's file."""
    (folder / "slow.py").write_text(SLOW)
    return {
        "name": "slow",
        "peers": PEERS,
        "rounds": ROUNDS,
        "data": {"name": "digits", "batch_size": 16},
        "model": {"name": "mlp", "hidden": [8]},
        "algorithm": {"name": "slow.py:Slow", "gamma": 0.4, **algorithm},
        "topology": "ring",
        "eval": {"every": 10},
    }


def submit(folder: Path, table: Table, *options: object) -> str:
    """`p2psim submit` with run folder `out`; returns the number of the job."""
    ended = run(p2psim("submit", write(folder, table), "--out", "out", *options), folder)
    assert ended.code == 0, ended.stderr
    assert re.fullmatch(r"\d+\n", ended.stdout), ended.stdout
    return ended.stdout.strip()


def state(job: str) -> dict[str, str]:
    """What Slurm knows about a job, or a task of an array such as 12_0."""
    command = ["scontrol", "--oneliner", "show", "job", job]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return dict(re.findall(r"(\w+)=(\S+)", answer.stdout))


def wait(seen: Callable[[], object], why: Callable[[], object]) -> None:
    """Until something is so; AssertionError with the reason after LIMIT seconds."""
    end = time.monotonic() + LIMIT
    while not seen():
        assert time.monotonic() < end, why()
        time.sleep(0.2)


def finish(folder: Path, job: str) -> tuple[dict[str, str], str]:
    """Wait for a job's end; returns (its last state, what it printed)."""
    wait(lambda: state(job)["JobState"] in ENDED, lambda: (state(job), log(folder, job)))
    return state(job), log(folder, job)


def log(folder: Path, job: str) -> str:
    """What a job printed so far."""
    path = folder / f"out.slurm-{job}.log"
    return path.read_text() if path.exists() else ""


def in_flight(folder: Path, job: str, rounds: int = 5) -> None:
    """Wait until all peers of a job have completed some rounds."""
    run_folder = folder / "out"
    wait(lambda: (results.progress(run_folder) or (0,))[0] >= rounds, lambda: log(folder, job))
