"""CPU seconds per peer and round of a gossip run, one rank: `python -m bench.scaling` in mpiexec.

Every rank does the same work per round whatever their number, so what grows with the number of
ranks is the cost of waiting and of the network layer.
"""

import json
import time
from pathlib import Path

import numpy as np

from p2psim import scenario
from p2psim.clock import Clock, Link
from p2psim.launcher import ranks
from p2psim.neighborhood import Neighborhood
from p2psim.recorder import Recorder
from p2psim.simulation import Simulation
from p2psim.wire import MPIWire

WARM, ROUNDS = 5, 20
STEPS = (60, 1)  # the round of Pranav & Moura 2023, and the shortest


class Unrecorded(Simulation):
    """The rounds alone: nothing is evaluated and nothing is written."""

    def evaluate(self, x: object) -> None: ...


class NoRecorder(Recorder):
    """Takes rows and drops them."""

    def __init__(self) -> None: ...

    def train(self, round_: int, **values: object) -> None: ...

    def close(self, x: object = None) -> None: ...


def experiment(peers: int, local_steps: int) -> scenario.Scenario:
    """Local D-PSGD with the 2NN, the same minibatches for any number of peers."""
    table = {
        "name": "scaling",
        "peers": peers,
        "rounds": WARM + ROUNDS,
        "data": {"name": "digits", "batch_size": 10},
        "model": {"name": "mlp", "hidden": [200, 200]},
        "learning": {"local_steps": local_steps},
        "algorithm": {"name": "d-psgd"},
        "topology": {"name": "ring"},
    }
    return scenario.load(table, Path())


def main() -> None:
    """Print CPU and wall seconds per peer and round as JSON, for long and short rounds."""
    ranks.one_thread()
    wire = MPIWire()
    found = {str(steps): measure(wire, steps) for steps in STEPS}
    if wire.rank == 0:
        print(json.dumps(found))


def measure(wire: MPIWire, local_steps: int) -> dict[str, float]:
    """CPU and wall seconds per peer and round, the mean over all ranks."""
    ready = experiment(wire.size, local_steps)
    side = Neighborhood(wire.twin(), ready.topology, Clock(), Link())
    simulation = Unrecorded(ready, wire, side, NoRecorder())
    x = simulation.prepare()
    simulation.algorithm.start(x, simulation.oracle, simulation.net)
    simulation.began = time.perf_counter()
    for _ in range(WARM):
        x = simulation.one_round(x)
    side.gather(np.zeros(1))
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(ROUNDS):
        x = simulation.one_round(x)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    mean = side.gather(np.array([cpu, wall])).mean(axis=0) / ROUNDS
    return {"cpu": float(mean[0]), "wall": float(mean[1])}


if __name__ == "__main__":
    main()
