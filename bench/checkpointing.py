"""Share of checkpoints every 30 s in a run's CPU time: `-m bench.checkpointing` in mpiexec.

The peers have a million parameters, CHOCO-SGD and momentum. The vectors x, x_hat, s and v of a peer
are 16 MB of state.
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
from p2psim.network.mpi import MPITransport
from p2psim.simulation import session, simulation

SECONDS = 75.0  # enough for two checkpoints
ENDLESS = 10**6  # rounds


class Timed(simulation.Simulation):
    """Simulation that adds up the CPU time of its checkpoints, with the wait for other peers."""

    spent, saves, total = 0.0, 0, 0.0

    def save(self, x: Any, store: Any) -> None:
        before = time.process_time()
        super().save(x, store)
        Timed.spent += time.process_time() - before
        Timed.saves += 1

    def rounds(self, x: Any, agreement: Any, store: Any) -> Any:
        before = time.process_time()
        try:
            return super().rounds(x, agreement, store)
        finally:
            Timed.total = time.process_time() - before


def experiment(peers: int) -> scenario.Scenario:
    """Return the scenario: a ring of peers with 1,000,185 parameters each."""
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
    """Print the share of checkpoints, their number, and the CPU time (ms) of one as JSON."""
    ranks.one_thread()
    transport = MPITransport()
    # `run_peer` creates the simulation itself, so the class is replaced where it looks it up.
    session.Simulation = Timed  # type: ignore[attr-defined]
    folder = Path(transport.comm.bcast(tempfile.mkdtemp() if transport.rank == 0 else None))
    until = time.monotonic() + SECONDS
    setup = experiment(transport.size)
    with contextlib.suppress(StoppedError):
        session.run_peer(
            setup, transport, folder / "run", stop_requested=lambda: time.monotonic() > until
        )
    sums = transport.comm.allreduce(np.array([Timed.spent, Timed.saves, Timed.total]))
    if transport.rank == 0:
        spent, saves, total = sums.tolist()
        # The last checkpoint belongs to the stop and not to the interval: leave it out.
        regular = spent * (saves - transport.size) / saves
        each = 1e3 * spent / saves
        print(json.dumps({"share": regular / total, "saves": saves / transport.size, "ms": each}))


if __name__ == "__main__":
    main()
