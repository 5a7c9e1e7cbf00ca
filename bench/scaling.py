"""CPU time per peer and round against the number of ranks: `-m bench.scaling` in mpiexec.

A rank does the same work per round for any number of ranks. With more ranks on a core each finds
its caches cold, with or without a network. The same rounds are therefore also run in isolation; a
further growth with the number of ranks is the cost of waiting and of the network layer.
"""

import json
import time
from pathlib import Path

import numpy as np

from p2psim.experiment import scenario
from p2psim.experiment.holdings import Holdings
from p2psim.launcher import ranks
from p2psim.network.collectives import ControlChannel
from p2psim.network.mpi import MPITransport
from p2psim.simulation.recorder import Recorder
from p2psim.simulation.simulation import Simulation

WARM, REPEATS = 5, 3
ROUNDS = 480  # of all peers together, so that each number of ranks is measured for the same time
LOCAL_STEPS = 60  # of a round, as in Pranav & Moura 2023
ALGORITHMS = ("d-psgd", "isolated")


class Unrecorded(Simulation):
    """Simulation without evaluation."""

    def evaluate(self, x: object) -> None: ...


class NoRecorder(Recorder):
    """Recorder that writes nothing."""

    # The recorder's own __init__ would create the peer's file.
    def __init__(self) -> None: ...

    def set_phase(self, phase: str, round_: int) -> None: ...

    def alive(self) -> None: ...

    def train(self, round_: int, **values: object) -> None: ...

    def close(self, x: object = None) -> None: ...


def experiment(peers: int, algorithm: str, rounds: int) -> scenario.Scenario:
    """Return the scenario: the 2NN on a ring, minibatches of one size for any number of peers."""
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
    """Print the CPU time (ms) per peer and round as JSON, with gossip and in isolation."""
    ranks.one_thread()
    transport = MPITransport()
    times = [[measure(transport, name) for name in ALGORITHMS] for _ in range(REPEATS)]
    if transport.rank == 0:
        print(json.dumps(dict(zip(ALGORITHMS, 1e3 * np.median(times, axis=0), strict=True))))


def measure(transport: MPITransport, algorithm: str) -> float:
    """Return the CPU time (s) per peer and round, mean over all ranks."""
    rounds = ROUNDS // transport.size
    setup = experiment(transport.size, algorithm, WARM + rounds)
    control = ControlChannel(transport, setup.topology)
    simulation = Unrecorded(setup, transport, control, NoRecorder())
    holdings = Holdings(setup)
    holdings.bind_task(transport.rank)
    x = simulation.prepare(holdings)
    simulation.algorithm.start(x, simulation.oracle, simulation.net)
    simulation.stopwatch.start()
    for _ in range(WARM):
        x = simulation.one_round(x)
    control.gather(np.zeros(1))  # all ranks are warm before the first is measured
    cpu = time.process_time()
    for _ in range(rounds):
        x = simulation.one_round(x)
    spent = np.array([time.process_time() - cpu])
    simulation.net.drain()
    return float(control.gather(spent).mean()) / rounds


if __name__ == "__main__":
    main()
