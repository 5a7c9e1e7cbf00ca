"""Ring gossip x <- Wx on 4 MB vectors against a bare mpi4py loop: `-m bench.exchange` in mpiexec.

The bare loop is written as by hand: preallocated buffers, nonblocking sends and receives, the same
weighted sum in the same order, and the sum is the next vector.
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
from p2psim.network.mpi import MPITransport
from p2psim.network.transfer import PeerNeighborhood

D, ITERATIONS, REPEATS = 1_000_000, 30, 25


class Bare:
    """Gossip written directly with mpi4py."""

    def __init__(self, comm: Any, ring: topology.Topology, x: Any) -> None:
        self.comm, self.x, self.out, self.term = comm, x.copy(), x.copy(), x.copy()
        self.neighbors = ring.senders(comm.rank)
        self.order = sorted([*self.neighbors, comm.rank])
        self.weights = ring.at(0)[comm.rank].astype(np.float32)
        self.received = {j: np.empty_like(x) for j in self.neighbors}

    def step(self) -> None:
        """Do one round of gossip."""
        requests = [
            self.comm.Irecv([buffer, MPI.FLOAT], source=j) for j, buffer in self.received.items()
        ]
        requests += [self.comm.Isend([self.x, MPI.FLOAT], dest=j) for j in self.neighbors]
        MPI.Request.Waitall(requests)
        # In the order of ranks, as in the library: the results must have the same bits.
        for number, j in enumerate(self.order):
            value = self.x if j == self.comm.rank else self.received[j]
            np.multiply(value, self.weights[j], out=self.term if number else self.out)
            if number:
                np.add(self.out, self.term, out=self.out)
        self.x, self.out = self.out, self.x


class Ours:
    """Gossip with the neighborhood's `mix`."""

    def __init__(self, net: PeerNeighborhood, x: Any) -> None:
        self.net, self.x = net, x.copy()

    def step(self) -> None:
        """Do one round of gossip."""
        self.x = self.net.mix(self.x)


def seconds(comm: Any, step: Callable[[], None]) -> float:
    """Return the wall time (s) of a round on the slowest rank."""
    step()
    comm.Barrier()
    began = time.perf_counter()
    for _ in range(ITERATIONS):
        step()
    own = (time.perf_counter() - began) / ITERATIONS
    slowest: float = comm.allreduce(own, MPI.MAX)
    return slowest


def main() -> None:
    """Measure both in turn; the first rank prints median times (s) and ratio as JSON."""
    transport = MPITransport()
    comm = transport.comm.Dup()
    ring = topology.build({"name": "ring"}, transport.size, 1, Path(), [1] * transport.size)
    x = np.random.default_rng(transport.rank).standard_normal(D).astype(np.float32)
    ours = Ours(PeerNeighborhood(transport, ring, Clock(), Uniform()), x)
    bare = Bare(comm, ring, x)
    pairs = [(seconds(comm, bare.step), seconds(comm, ours.step)) for _ in range(REPEATS)]
    same = bool((ours.x == bare.x).all())
    if transport.rank == 0:
        bare_time, own_time = np.median(pairs, axis=0)
        ratio = np.median([b / a for a, b in pairs])
        times = {"bare": bare_time, "ours": own_time, "ratio": ratio}
        print(json.dumps({"ranks": transport.size, **times, "same": same}))


if __name__ == "__main__":
    main()
