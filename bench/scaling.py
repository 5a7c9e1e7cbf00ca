"""CPU seconds per peer and round of a gossip run, one rank: `python -m bench.scaling` in mpiexec.

Every rank does the same work per round whatever their number, so what grows with the number of
ranks is the cost of waiting and of the network layer.
"""

import json
import time
from pathlib import Path

import numpy as np

from p2psim import config, scenario
from p2psim.clock import Clock, Link
from p2psim.launcher import ranks
from p2psim.neighborhood import Neighborhood
from p2psim.recorder import Recorder
from p2psim.simulation import Simulation
from p2psim.wire import MPIWire

ROUNDS = 200
QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.toml"


class Unrecorded(Simulation):
    """The rounds alone: nothing is evaluated and nothing is written."""

    def evaluate(self, x: object) -> None: ...


class NoRecorder(Recorder):
    """Takes rows and drops them."""

    def __init__(self) -> None: ...

    def train(self, round_: int, **values: object) -> None: ...

    def close(self, x: object = None) -> None: ...


def experiment(peers: int) -> scenario.Scenario:
    """The quickstart with equal shares, for any number of peers."""
    table = config.assign(
        config.read(QUICKSTART), [f"peers={peers}", "data.partition=iid", f"rounds={ROUNDS}"]
    )
    return scenario.load(table, QUICKSTART.parent)


def main() -> None:
    """Print CPU and wall seconds per peer and round as JSON, from the first rank."""
    ranks.one_thread()
    wire = MPIWire()
    ready = experiment(wire.size)
    side = Neighborhood(wire.twin(), ready.topology, Clock(), Link())
    simulation = Unrecorded(ready, wire, side, NoRecorder())
    x = simulation.prepare()
    simulation.algorithm.start(x, simulation.oracle, simulation.net)
    simulation.began = time.perf_counter()
    for _ in range(10):
        x = simulation.one_round(x)
    side.gather(np.zeros(1))
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(ROUNDS):
        x = simulation.one_round(x)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    mean = side.gather(np.array([cpu, wall])).mean(axis=0) / ROUNDS
    if wire.rank == 0:
        print(json.dumps({"ranks": wire.size, "cpu": mean[0], "wall": mean[1]}))


if __name__ == "__main__":
    main()
