"""CPU seconds per peer and round, one rank: `python -m bench.scaling` in mpiexec.

Every rank does the same work per round whatever their number. More ranks on a core cost caches
that each of them finds cold, with or without a network; so the same rounds are also run alone,
and what else grows with the number of ranks is the cost of waiting and of the network layer.
"""

import json
import time
from pathlib import Path

import numpy as np

from p2psim.experiment import scenario
from p2psim.launcher import ranks
from p2psim.network.clock import Clock
from p2psim.network.links import Uniform
from p2psim.network.neighborhood import Neighborhood
from p2psim.network.transport import MPITransport
from p2psim.simulation.recorder import Recorder
from p2psim.simulation.simulation import Simulation

WARM, REPEATS = 5, 3
ROUNDS = 480  # of all peers together, so that every number of ranks is watched for as long
LOCAL_STEPS = 60  # the round of Pranav & Moura 2023
ALGORITHMS = ("d-psgd", "isolated")


class Unrecorded(Simulation):
    """The rounds alone: nothing is evaluated and nothing is written."""

    def evaluate(self, x: object) -> None: ...


class NoRecorder(Recorder):
    """Takes rows and drops them."""

    def __init__(self) -> None: ...

    def at(self, phase: str, round_: int) -> None: ...

    def alive(self) -> None: ...

    def train(self, round_: int, **values: object) -> None: ...

    def close(self, x: object = None) -> None: ...


def experiment(peers: int, algorithm: str, rounds: int) -> scenario.Scenario:
    """Local training of the 2NN, minibatches of the same size for any number of peers."""
    table = {
        "name": "scaling",
        "peers": peers,
        "rounds": rounds,
        "data": {"name": "digits", "batch_size": 10},
        "model": {"name": "mlp", "hidden": [200, 200]},
        "learning": {"local_steps": LOCAL_STEPS},
        "algorithm": {"name": algorithm},
        "topology": {"name": "ring"},
    }
    return scenario.load(table, Path())


def main() -> None:
    """Print CPU milliseconds per peer and round as JSON: medians, with gossip and alone."""
    ranks.one_thread()
    wire = MPITransport()
    found = [[measure(wire, name) for name in ALGORITHMS] for _ in range(REPEATS)]
    if wire.rank == 0:
        print(json.dumps(dict(zip(ALGORITHMS, 1e3 * np.median(found, axis=0), strict=True))))


def measure(wire: MPITransport, algorithm: str) -> float:
    """CPU seconds per peer and round, the mean over all ranks."""
    rounds = ROUNDS // wire.size
    ready = experiment(wire.size, algorithm, WARM + rounds)
    control = Neighborhood(wire.duplicate(), ready.topology, Clock(), Uniform())
    simulation = Unrecorded(ready, wire, control, NoRecorder())
    x = simulation.prepare()
    simulation.algorithm.start(x, simulation.oracle, simulation.net)
    simulation.began = time.perf_counter()
    for _ in range(WARM):
        x = simulation.one_round(x)
    control.gather(np.zeros(1))
    cpu = time.process_time()
    for _ in range(rounds):
        x = simulation.one_round(x)
    spent = np.array([time.process_time() - cpu])
    simulation.net.drain()
    return float(control.gather(spent).mean()) / rounds


if __name__ == "__main__":
    main()
