"""Share of recording in the wall time of a quickstart run: rows, and events in virtual time."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from p2psim.experiment import config, scenario
from p2psim.launcher import ranks
from p2psim.network.mpi import MPITransport
from p2psim.simulation import event_log, recorder, session

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "quickstart.toml"
TIME = {"compute": "shifted-exponential", "link": {"latency": 1e-4, "bandwidth": 1.25e9}}
spent = {"rows": 0.0, "schedule": 0.0}  # seconds


def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method with its wall time added to spent[name]."""

    def run(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = method(*arguments, **options)
        spent[name] += time.perf_counter() - began
        return result

    return run


def main() -> None:
    """Run the quickstart on these ranks; print the shares of the first rank as JSON."""
    ranks.one_thread()
    transport = MPITransport()
    folder = Path(transport.comm.bcast(tempfile.mkdtemp() if transport.rank == 0 else None))
    # On the classes, because `run_peer` creates the instances itself.
    for name in ("set_phase", "train", "algorithm_metric", "evaluation"):
        setattr(recorder.Recorder, name, timed("rows", getattr(recorder.Recorder, name)))
    event_log.EventLog.event = timed("schedule", event_log.EventLog.event)  # type: ignore[method-assign]
    began = time.perf_counter()
    table = {**config.read(EXPERIMENT), "time": TIME}
    session.run_peer(scenario.load(table, EXPERIMENT.parent), transport, folder)
    if transport.rank == 0:
        wall = time.perf_counter() - began
        print(
            json.dumps({"wall": wall, **{name: seconds / wall for name, seconds in spent.items()}})
        )


if __name__ == "__main__":
    main()
