"""p2psim watch beside real ranks, from before they begin to their end."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from p2psim.analysis.tables import quantity
from tests.mpi.test_failures import wait_for
from tests.support.programs import Program, p2psim, write
from tests.support.thorough import thorough

PEERS, ROUNDS, LIMIT = 3, 150, 120.0
PLUGIN = """
import time
from p2psim.base import Algorithm
from p2psim.registry import plugin

@plugin("algorithm", "slow")
class Slow(Algorithm):
    requires = ("row-stochastic",)
    end: int = 0

    def start(self, x, oracle, net):
        self.calls = 0

    def consensus(self, x, oracle, net):
        time.sleep(0.02)
        self.calls += 1
        if net.rank == 1 and self.calls == self.end:
            raise ArithmeticError("enough")
        return net.mix(x)
"""


@pytest.mark.parametrize("end", [thorough(0), 100], ids=["done", "failed"])
def test_a_run_is_followed_to_its_end(end: int, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(PLUGIN)
    file = write(
        tmp_path,
        {
            "peers": PEERS,
            "rounds": ROUNDS,
            "data": {"name": "digits", "batch_size": 16},
            "model": {"name": "linear"},
            "algorithm": {"name": "slow.py:Slow", "end": end},
            "topology": "ring",
        },
    )
    with Program(p2psim("watch", "out", "--wait", LIMIT), tmp_path) as watching:
        wait_for(lambda: "waiting" in watching.text(watching.out), watching)
        with Program(p2psim("run", file, "--out", "out"), tmp_path) as running:
            ran, watched = running.end(LIMIT), watching.end(LIMIT)
    assert (ran.code, watched.code) == (3 if end else 0, 0), ran.stderr + watched.stderr
    lines = watched.stdout.splitlines()
    assert any("state running" in line for line in lines), watched.stdout
    if end:
        assert "out: state failed (rounds 9" in watched.stdout
        assert "! peer 1 on " in lines[-1]
        assert "ArithmeticError: enough (" in lines[-1]
        assert lines[-1].endswith("slow.py line 18)")
        return
    with h5py.File(tmp_path / "out" / "run.h5", "r", locking=False) as results:
        sent = quantity(results["train/bytes_sent"][:, -1].sum(), "byte")
        accuracy = quantity(results["eval/accuracy"][:, -1].mean())
    assert lines[-1].startswith(f"out: state done, rounds {ROUNDS}/{ROUNDS}")
    assert f"test accuracy {accuracy}, " in lines[-1]
    assert f"sent {sent}" in lines[-1]
