"""One peer's life: what every rank runs from the first round to the last."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import numpy as np

from p2psim import recorder
from p2psim.base import Vector, Wire
from p2psim.clock import Clock, Link
from p2psim.errors import AbortedError, InputError, PeerError
from p2psim.neighborhood import Neighborhood
from p2psim.rng import Stream
from p2psim.scenario import Scenario


class Simulation:
    """A peer at work. `phase` and `round` say where it is, for whoever must report a failure."""

    def __init__(
        self, scenario: Scenario, wire: Wire, side: Neighborhood, log: recorder.Recorder
    ) -> None:
        self.scenario, self.wire, self.side, self.log = scenario, wire, side, log
        self.phase, self.round = "start", 0
        self.clock = Clock()
        self.net = Neighborhood(wire, scenario.topology, self.clock, scenario.experiment.time.link)
        self.algorithm = scenario.experiment.algorithm

    def prepare(self) -> Vector:
        """Bind the plug-ins to this peer and build the model; torch is first needed here."""
        from p2psim.evaluation import Evaluator
        from p2psim.peer import Batches, FlatModel, LocalOracle, Samples

        scenario, rank = self.scenario, self.wire.rank
        data, seed = scenario.experiment.data, scenario.experiment.head.seed
        for compressor in self.algorithm.compressors():
            compressor.bind(scenario.shapes, Stream(seed, "compressor", rank))
        if scenario.experiment.time.compute is not None:
            scenario.experiment.time.compute.bind(seed)
        model = FlatModel(scenario, rank)
        train, _ = scenario.hold(rank)
        samples = Samples(data, train, model.g.dtype)
        batches = Batches(data, samples, scenario.batch_size(rank), seed, rank)
        self.oracle = LocalOracle(scenario, model, batches, self.clock)
        self.evaluator = Evaluator(scenario, model, self.side)
        scenario.held = None  # what is not in use by now may go
        self.due = set(scenario.eval_rounds())
        return model.x

    def run(self) -> None:
        """All rounds; the peer's file holds the rows so far at any moment."""
        with np.errstate(over="ignore", invalid="ignore"):  # the rows show what has diverged
            self.rounds(self.prepare())

    def rounds(self, x: Vector) -> None:
        """From the first x to the last."""
        self.algorithm.start(x, self.oracle, self.net)
        self.side.gather(np.zeros(1))  # all are ready: real time starts together
        self.began = time.perf_counter()
        for number in range(1, self.scenario.rounds + 1):
            self.round = number
            x = self.one_round(x)
        self.phase = "end"
        self.net.settle()
        self.log.close(x)
        self.side.gather(np.zeros(1))  # nobody leaves before all have finished

    def one_round(self, x: Vector) -> Vector:
        """Local phase, consensus phase, one row."""
        self.phase = "local"
        x = self.algorithm.local(x, self.oracle, self.net)
        self.evaluate(x)
        self.phase = "consensus"
        for _ in range(self.scenario.experiment.learning.consensus_steps):
            x = self.algorithm.consensus(x, self.oracle, self.net)
            self.net.step += 1
        self.evaluate(x)
        self.phase = "record"
        net = self.net
        self.log.train(
            self.round,
            step=self.oracle.step_count,
            epoch=self.oracle.epoch,
            time=self.clock.now,
            wall=time.perf_counter() - self.began,
            loss=self.oracle.mean_loss(),
            bytes_sent=net.bytes_sent,
            bytes_received=net.bytes_received,
            messages_sent=net.messages_sent,
            header_bytes=net.header_bytes,
        )
        return x

    def evaluate(self, x: Vector) -> None:
        """Measure x after this phase, where the experiment asks for it."""
        if self.round in self.due and self.phase in self.scenario.experiment.eval.phases:
            phase, self.phase = self.phase, f"evaluation after {self.phase}"
            row = self.evaluator.measure(x)
            self.log.evaluation(self.round, phase, time=self.clock.now, **row)

    def failure(self, error: BaseException) -> str:
        """Which peer failed, where and why, in one line."""
        cause = f"{type(error).__name__}: {error}".replace("\n", " ")
        return (
            f"peer {self.wire.rank} on {socket.gethostname()} failed in phase {self.phase!r} "
            f"of round {self.round}: {cause}"
        )


def run_peer(scenario: Scenario, wire: Wire, folder: Path, force: bool = False) -> None:
    """Be one peer of a run in `folder`. InputError and PeerError as the exit codes say."""
    check_size(scenario, wire.size)
    side = Neighborhood(wire.twin(), scenario.topology, Clock(), Link())
    agree(scenario, folder, side, force)
    scribe = enter(folder, side)
    simulation = None
    try:
        if scribe:
            recorder.create_run_file(folder, scenario, wire.library)
        side.gather(np.zeros(1))  # from here on a failure can be written down
        log = recorder.Recorder(folder, scenario, wire.rank)
        simulation = Simulation(scenario, wire, side, log)
        simulation.run()
    except (AbortedError, KeyboardInterrupt):
        raise
    except BaseException as error:  # also sys.exit: the others must not wait for this peer
        text = simulation.failure(error) if simulation else f"peer {wire.rank}: {error!r}"
        recorder.set_failure(folder, wire.rank, text)
        raise PeerError(text) from error
    if scribe:
        recorder.set_status(folder, "done")
    side.gather(np.zeros(1))  # whoever returns can rely on the status


def check_size(scenario: Scenario, size: int) -> None:
    """One rank per peer."""
    if size != scenario.peers:
        raise InputError(
            f"peers = {scenario.peers}, but this run has {size} ranks: "
            f"start it with -n {scenario.peers}, or give --set peers={size}"
        )


def agree(scenario: Scenario, folder: Path, side: Neighborhood, force: bool) -> None:
    """All peers go on, or none: the first that cannot says why, the others end silently."""
    problem: InputError | None = None
    try:
        recorder.check_folder(folder, force)
        scenario.hold(side.rank)
    except InputError as error:
        problem = error
    failed = side.gather(np.array([float(problem is not None)]))[:, 0]
    if not failed.any():
        return
    if problem and side.rank == failed.argmax():
        problem.speaks = True
        raise problem
    raise AbortedError


def enter(folder: Path, side: Neighborhood) -> bool:
    """Make the run folder; True for the one peer, the first to come, that writes run.h5."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        recorder.clear(folder)
    except OSError as error:
        raise InputError(f"cannot write to the run folder {str(folder)!r}: {error}") from None
    side.gather(np.zeros(1))
    return recorder.claim(folder)
