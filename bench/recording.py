"""Share of a quickstart round that goes into recording it."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from p2psim import config, recorder, scenario, session
from p2psim.launcher import ranks
from p2psim.wire import MPIWire

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "quickstart.toml"
BOUND = 0.02


class Timed(recorder.Recorder):
    """A recorder that adds up the seconds spent in it."""

    spent = 0.0

    def at(self, phase: str, round_: int) -> None:
        began = time.perf_counter()
        super().at(phase, round_)
        Timed.spent += time.perf_counter() - began

    def train(self, round_: int, **values: Any) -> None:
        began = time.perf_counter()
        super().train(round_, **values)
        Timed.spent += time.perf_counter() - began

    def evaluation(self, round_: int, phase: str, **values: Any) -> None:
        began = time.perf_counter()
        super().evaluation(round_, phase, **values)
        Timed.spent += time.perf_counter() - began


def main() -> None:
    """Run the quickstart on these ranks; print the first rank's share as JSON."""
    ranks.one_thread()
    wire = MPIWire()
    folder = Path(wire.comm.bcast(tempfile.mkdtemp() if wire.rank == 0 else None))
    recorder.Recorder = Timed  # type: ignore[misc]
    began = time.perf_counter()
    ready = scenario.load(config.read(EXPERIMENT), EXPERIMENT.parent)
    session.run_peer(ready, wire, folder)
    if wire.rank == 0:
        wall = time.perf_counter() - began
        print(json.dumps({"share": Timed.spent / wall, "spent": Timed.spent, "wall": wall}))


if __name__ == "__main__":
    main()
