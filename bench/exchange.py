"""Ring gossip x <- Wx on 4 MB vectors against a bare mpi4py loop: `-m bench.exchange` in mpiexec.

The bare loop is what one would write by hand: preallocated buffers, nonblocking sends and
receives, the same weighted sum in the same order, and the sum is the next vector.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from p2psim.network import topology
from p2psim.network.clock import Clock
from p2psim.network.links import Uniform
from p2psim.network.neighborhood import Neighborhood
from p2psim.network.transport import MPITransport

D, ITERATIONS, REPEATS = 1_000_000, 30, 25


class Bare:
    """The hand-written loop."""

    def __init__(self, comm: Any, ring: topology.Topology, x: Any) -> None:
        self.comm, self.x, self.out, self.term = comm, x.copy(), x.copy(), x.copy()
        self.neighbors = ring.senders(comm.rank)
        self.order = sorted([*self.neighbors, comm.rank])
        self.weights = ring.at(0)[comm.rank].astype(np.float32)
        self.received = {j: np.empty_like(x) for j in self.neighbors}

    def step(self) -> None:
        """One round."""
        requests = [
            self.comm.Irecv([buffer, MPI.FLOAT], source=j) for j, buffer in self.received.items()
        ]
        requests += [self.comm.Isend([self.x, MPI.FLOAT], dest=j) for j in self.neighbors]
        MPI.Request.Waitall(requests)
        for number, j in enumerate(self.order):
            value = self.x if j == self.comm.rank else self.received[j]
            np.multiply(value, self.weights[j], out=self.term if number else self.out)
            if number:
                np.add(self.out, self.term, out=self.out)
        self.x, self.out = self.out, self.x


class Ours:
    """The neighborhood's mix."""

    def __init__(self, net: Neighborhood, x: Any) -> None:
        self.net, self.x = net, x.copy()

    def step(self) -> None:
        """One round."""
        self.x = self.net.mix(self.x)


def seconds(comm: Any, step: Callable[[], None]) -> float:
    """Wall seconds per round, the slowest rank's."""
    step()
    comm.Barrier()
    began = time.perf_counter()
    for _ in range(ITERATIONS):
        step()
    mine = (time.perf_counter() - began) / ITERATIONS
    slowest: float = comm.allreduce(mine, MPI.MAX)
    return slowest


def main() -> None:
    """Print the median seconds of both, taken in turn, as JSON from the first rank."""
    wire = MPITransport()
    comm = wire.comm.Dup()
    ring = topology.build({"name": "ring"}, wire.size, 1, Path(), [1] * wire.size)
    x = np.random.default_rng(wire.rank).standard_normal(D).astype(np.float32)
    ours = Ours(Neighborhood(wire, ring, Clock(), Uniform()), x)
    bare = Bare(comm, ring, x)
    pairs = [(seconds(comm, bare.step), seconds(comm, ours.step)) for _ in range(REPEATS)]
    same = bool((ours.x == bare.x).all())
    if wire.rank == 0:
        plain, own = np.median(pairs, axis=0)
        ratio = np.median([b / a for a, b in pairs])
        print(
            json.dumps(
                {"ranks": wire.size, "bare": plain, "ours": own, "ratio": ratio, "same": same}
            )
        )


if __name__ == "__main__":
    main()
