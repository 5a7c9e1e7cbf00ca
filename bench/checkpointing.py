"""Share of a run's CPU time that goes into checkpoints every 30 s: `-m bench.checkpointing`.

To be started in mpiexec. 16 peers with a million parameters, CHOCO-SGD and momentum: x, x_hat, s
and v are 16 MB of state each.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from p2psim.errors import StoppedError
from p2psim.experiment import scenario
from p2psim.launcher import ranks
from p2psim.network.transport import MPITransport
from p2psim.simulation import session, simulation

SECONDS = 75.0  # time for two checkpoints
ENDLESS = 10**6  # rounds


class Timed(simulation.Simulation):
    """A peer that adds up the CPU time of its checkpoints; waiting for the others counts."""

    spent, saves, total = 0.0, 0, 0.0

    def save(self, x: Any, store: Any) -> None:
        before = time.process_time()
        super().save(x, store)
        Timed.spent += time.process_time() - before
        Timed.saves += 1

    def rounds(self, x: Any, agreement: Any, store: Any) -> None:
        before = time.process_time()
        try:
            super().rounds(x, agreement, store)
        finally:
            Timed.total = time.process_time() - before


def experiment(peers: int) -> scenario.Scenario:
    """A model of 1,000,185 parameters."""
    table = {
        "name": "saving",
        "peers": peers,
        "rounds": ENDLESS,
        "data": {"name": "digits", "batch_size": 10},
        "model": {"name": "mlp", "hidden": [1000, 925]},
        "learning": {"optimizer": {"name": "sgd", "momentum": 0.9}},
        "algorithm": {"name": "choco-sgd", "compressor": {"name": "top-k", "keep": 0.1}},
        "topology": {"name": "ring"},
        "eval": {"every": ENDLESS},
        "run": {"checkpoint_minutes": 0.5},
    }
    return scenario.load(table, Path())


def main() -> None:
    """Print the share, and what a checkpoint takes, as JSON."""
    ranks.one_thread()
    wire = MPITransport()
    session.Simulation = Timed  # type: ignore[attr-defined]
    folder = Path(wire.comm.bcast(tempfile.mkdtemp() if wire.rank == 0 else None))
    until = time.monotonic() + SECONDS
    ready = experiment(wire.size)
    with contextlib.suppress(StoppedError):
        session.run_peer(ready, wire, folder / "run", asked=lambda: time.monotonic() > until)
    sums = wire.comm.allreduce(np.array([Timed.spent, Timed.saves, Timed.total]))
    if wire.rank == 0:
        spent, saves, total = sums.tolist()
        # The last one was asked for, so it is taken out.
        regular = spent * (saves - wire.size) / saves
        each = 1e3 * spent / saves
        print(json.dumps({"share": regular / total, "saves": saves / wire.size, "ms": each}))


if __name__ == "__main__":
    main()
