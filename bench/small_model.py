"""Rounds per second on a small model, against a bare mpi4py and torch loop: `-m bench.small_model`.

Under mpiexec both loops run on the same ranks, in turn: D-PSGD on a ring, digits, one step a round.
The bare loop is written as a good graduate student would write it: flat parameters, autograd,
Isend, Irecv and Waitall with every neighbor, a weighted sum. It records and evaluates nothing.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import nn
from torch.nn import functional

from p2psim.experiment import scenario
from p2psim.experiment.holdings import Holdings
from p2psim.launcher import ranks
from p2psim.network.collectives import ControlChannel
from p2psim.network.mpi import MPITransport
from p2psim.simulation.agreement import RoundAgreement
from p2psim.simulation.checkpoint import CheckpointStore
from p2psim.simulation.recorder import Recorder
from p2psim.simulation.simulation import Simulation

SIZES = {"small": ([200, 170], 16), "large": ([1000, 925], 16)}  # hidden layers, batch size
WARM, REPEATS = 20, 5
LR = 0.05


def experiment(peers: int, hidden: list[int], batch: int, rounds: int) -> scenario.Scenario:
    """Return the scenario of both loops."""
    table = {
        "name": "small-model",
        "peers": peers,
        "rounds": rounds,
        "data": {"name": "digits", "batch_size": batch},
        "model": {"name": "mlp", "hidden": hidden},
        "learning": {"optimizer": {"name": "sgd", "lr": LR}},
        "algorithm": {"name": "d-psgd"},
        "topology": {"name": "ring"},
        "eval": {"every": 10**8, "samples": 10},
    }
    return scenario.load(table, Path())


class Bare:
    """The loop of a script: one flat vector of parameters and one of gradients."""

    def __init__(self, comm: Any, hidden: list[int], batch: int, train: Any) -> None:
        torch.manual_seed(1)
        sizes = [64, *hidden, 10]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        parameters = list(self.model.parameters())
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.grad = torch.zeros_like(self.flat)
        start = 0
        for p in parameters:
            p.data = self.flat[start : start + p.numel()].view(p.shape)
            p.grad = self.grad[start : start + p.numel()].view(p.shape)
            start += p.numel()
        self.inputs = torch.from_numpy(train[0]).float() / 16
        self.targets, self.batch = torch.from_numpy(train[1]), batch
        self.order, self.at = torch.randperm(len(self.targets)), 0
        self.comm, n, rank = comm, comm.size, comm.rank
        self.neighbors = sorted({(rank - 1) % n, (rank + 1) % n})
        self.x = self.flat.numpy()
        self.received = [np.empty_like(self.x) for _ in self.neighbors]
        self.weight = np.float32(1 / (len(self.neighbors) + 1))

    def round(self) -> None:
        """Take one local step and mix with both neighbors."""
        if self.at + self.batch > len(self.order):
            self.order, self.at = torch.randperm(len(self.targets)), 0
        chosen = self.order[self.at : self.at + self.batch]
        self.at += self.batch
        self.grad.zero_()
        loss = functional.cross_entropy(self.model(self.inputs[chosen]), self.targets[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        self.flat.add_(self.grad, alpha=-LR)
        requests = [
            self.comm.Irecv(buffer, j)
            for buffer, j in zip(self.received, self.neighbors, strict=True)
        ]
        requests += [self.comm.Isend(self.x, j) for j in self.neighbors]
        MPI.Request.Waitall(requests)
        for buffer in self.received:
            self.x += buffer
        self.x *= self.weight


class Ours:
    """The rounds of a simulation, with its records, without evaluation."""

    def __init__(self, transport: MPITransport, setup: scenario.Scenario, folder: Path) -> None:
        holdings = Holdings(setup)
        holdings.bind_task(transport.rank)
        control = ControlChannel(transport, setup.topology)
        log = Recorder(folder, setup, transport.rank, "bench")
        self.simulation = Simulation(setup, transport, control, log)
        self.agreement = RoundAgreement(control, setup.experiment.run, bool)
        store = CheckpointStore(folder, transport.rank, "")
        x = self.simulation.prepare(holdings)
        self.x = self.simulation.start(x, store)

    def round(self) -> None:
        """Run one round as `Simulation.rounds` does."""
        self.simulation.round += 1
        self.x = self.simulation.one_round(self.x)
        self.agreement(self.simulation.round)


def seconds(comm: Any, step: Callable[[], None], rounds: int) -> float:
    """Return the wall seconds per round of the slowest rank."""
    comm.Barrier()
    began = time.perf_counter()
    for _ in range(rounds):
        step()
    slowest: float = comm.allreduce((time.perf_counter() - began) / rounds, MPI.MAX)
    return slowest


def main(size: str, rounds: int) -> None:
    """Print rounds per second of both loops and their ratio as JSON; medians of REPEATS pairs."""
    ranks.one_thread()
    hidden, batch = SIZES[size]
    transport = MPITransport()
    comm = transport.comm.Dup()
    setup = experiment(transport.size, hidden, batch, WARM + REPEATS * rounds)
    with tempfile.TemporaryDirectory() as own:
        folder = Path(comm.bcast(own))
        if comm.rank == 0:
            from p2psim.simulation import run_file

            run_file.create_run_file(folder, bound(setup), "bench")
        comm.Barrier()
        bare = Bare(comm, hidden, batch, Holdings(setup).train(transport.rank))
        ours = Ours(transport, setup, folder)
        for _ in range(WARM):
            bare.round()
            ours.round()
        pairs = [
            (seconds(comm, bare.round, rounds), seconds(comm, ours.round, rounds))
            for _ in range(REPEATS)
        ]
        comm.Barrier()
    if comm.rank == 0:
        plain, own_seconds = np.median(pairs, axis=0)
        ratio = float(np.median([a / b for a, b in pairs]))
        result = {"ranks": comm.size, "bare": 1 / plain, "ours": 1 / own_seconds, "ratio": ratio}
        print(json.dumps(result))


def bound(setup: scenario.Scenario) -> scenario.Scenario:
    """Return the scenario with its task bound to the first peer's samples."""
    Holdings(setup).bind_task(0)
    return setup


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
