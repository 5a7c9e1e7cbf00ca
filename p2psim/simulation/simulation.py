"""Simulation of one peer: its parts, its rounds, its checkpoints."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from p2psim.base import Vector
from p2psim.errors import StoppedError, in_one_line
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.scenario import Scenario
from p2psim.network.clock import Clock, RealTimePacer
from p2psim.network.collectives import ControlChannel
from p2psim.network.transfer import Alarm, PeerNeighborhood, silent
from p2psim.network.transport import Transport
from p2psim.rng import RandomStream
from p2psim.simulation import allocator
from p2psim.simulation.agreement import Decision, RoundAgreement
from p2psim.simulation.bound import BoundAttributes
from p2psim.simulation.checkpoint import CheckpointStore
from p2psim.simulation.event_log import EventLog
from p2psim.simulation.recorder import Recorder
from p2psim.simulation.run_format import PHASES, result_file
from p2psim.vectors import check_like


class Stateful(Protocol):
    """A part of a peer whose state a checkpoint holds."""

    def state(self) -> dict[str, Any]:
        """Return everything that later rounds depend on, as values that state.py can encode."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state; the attributes of plug-ins in it are restored already."""


class Stopwatch:
    """Real seconds since the first round began, without the time between stop and --resume."""

    def __init__(self) -> None:
        self.began, self.before = time.perf_counter(), 0.0

    def start(self) -> None:
        """Start to count, from the seconds before the interruption in a resumed run."""
        self.began = time.perf_counter() - self.before

    def seconds(self) -> float:
        """Return the seconds so far."""
        return time.perf_counter() - self.began

    def state(self) -> dict[str, float]:
        return {"seconds": self.seconds()}

    def restore(self, state: dict[str, float]) -> None:
        self.before = state["seconds"]


class Simulation:
    """One peer of a run; `phase` and `round` are its current ones, for reports of a failure."""

    def __init__(
        self,
        scenario: Scenario,
        transport: Transport,
        control: ControlChannel,
        log: Recorder,
        events: EventLog | None = None,
        alarm: Alarm = silent,
    ) -> None:
        self.scenario, self.control, self.log, self.events = scenario, control, log, events
        self.rank = transport.rank
        experiment = scenario.experiment
        self.pacer = RealTimePacer(log.alive) if experiment.time.realize else None
        self.clock = Clock(events, self.pacer)
        self.net = PeerNeighborhood(
            transport, scenario.topology, self.clock, experiment.time.link, control, alarm
        )
        self.algorithm = experiment.algorithm
        self.consensus_steps = experiment.learning.consensus_steps
        self.stopwatch = Stopwatch()
        self.round = 0
        self.set_phase("start")

    def set_phase(self, phase: str) -> None:
        """Begin a phase of the current round, and record that."""
        self.phase = phase
        self.log.set_phase(phase, self.round)
        if self.events:
            self.events.begin_round(self.round)

    def prepare(self, holdings: Holdings, device: str = "cpu") -> Vector:
        """Bind the plug-ins to this peer and build its parts; returns the first model, shape (d,).

        Torch is imported only here: what comes before, such as refusals, is quick without it.
        """
        from p2psim.simulation.alignment import Alignment
        from p2psim.simulation.evaluation import Evaluator
        from p2psim.simulation.flat_model import FlatModel
        from p2psim.simulation.minibatches import Batches, Samples
        from p2psim.simulation.oracle import MinibatchOracle

        scenario, rank = self.scenario, self.rank
        data, seed = scenario.experiment.data, scenario.experiment.head.seed
        for compressor in self.algorithm.compressors():
            compressor.bind(scenario.shapes, RandomStream(seed, "compressor", rank))
        self.model = FlatModel(scenario, rank, device)
        learning = scenario.experiment.learning
        # Before the optimizer and the algorithm start: attributes that they set then are state.
        self.bound = BoundAttributes([self.algorithm, learning.optimizer, learning.rule])
        samples = Samples(data, holdings.train(rank), self.model.g.dtype, device)
        batches = Batches(data, samples, scenario.batch_size(rank), seed, rank)
        self.oracle = MinibatchOracle(scenario, self.model, batches, self.clock, self.log.alive)
        every = scenario.experiment.eval.alignment
        self.alignment = Alignment(scenario, rank, self.model, samples) if every else None
        self.evaluator = Evaluator(scenario, self.model, self.control, holdings)
        holdings.release()
        self.due = set(scenario.eval_rounds())
        self.last_phase = max(scenario.experiment.eval.phases, key=PHASES.index)
        self.evaluated = getattr(learning.optimizer, "evaluated", None)
        self.parts: dict[str, Stateful] = {
            "network": self.net,
            "oracle": self.oracle,
            "clock": self.clock,
            "buffers": self.model,
            "stopwatch": self.stopwatch,
            "log": self.log,
            **({"events": self.events} if self.events else {}),
        }
        return self.model.x

    def run(self, x: Vector, agreement: RoundAgreement, store: CheckpointStore) -> Vector:
        """Run all remaining rounds and return the last model, shape (d,).

        The run starts from the model x, or from the checkpoint after `store.round`. StoppedError if
        the peers agree to stop before the last round.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # recorded rows show a divergence
            return self.rounds(self.start(x, store), agreement, store)

    def start(self, x: Vector, store: CheckpointStore) -> Vector:
        """Start the algorithm and restore the checkpoint, if any; returns the model."""
        self.algorithm.start(x, self.oracle, self.net)
        self.net.release()  # the rounds' messages may have other sizes than those of the start
        if store.round:
            x = self.restore(store)
        allocator.keep_freed_memory()
        self.control.barrier()  # real time starts at the same moment on all peers
        self.stopwatch.start()
        if self.pacer:
            self.pacer.start(self.clock.now)
        return x

    def rounds(self, x: Vector, agreement: RoundAgreement, store: CheckpointStore) -> Vector:
        """Run the rounds after `store.round`; returns the last model."""
        last = Decision(checkpoint=self.scenario.experiment.run.last_checkpoint)
        for number in range(store.round + 1, self.scenario.rounds + 1):
            self.round = number
            x = self.one_round(x)
            decision = agreement(number) if number < self.scenario.rounds else last
            if decision.checkpoint:
                self.set_phase("checkpoint")
                with self.untimed():
                    self.save(x, store)
            if decision.stop:
                raise StoppedError
        self.set_phase("end")
        self.net.drain()
        self.control.drain()  # the agreement's last messages
        self.evaluator.save(x, store.folder / result_file(self.rank))
        return x

    def one_round(self, x: Vector) -> Vector:
        """Run the local phase and the consensus phase and record one row; returns the model."""
        own, due = self.model.x, self.round in self.due
        self.set_phase("local")
        self.oracle.begin(x)
        x = check_like(self.algorithm.local(x, self.oracle, self.net), own, self.algorithm)
        if due:
            self.evaluate(x)
        self.set_phase("consensus")
        for _ in range(self.consensus_steps):
            x = check_like(self.algorithm.consensus(x, self.oracle, self.net), own, self.algorithm)
            self.net.advance()
        self.oracle.end(x)
        if due:
            self.evaluate(x)
        self.set_phase("record")
        self.log.train(
            self.round,
            step=self.oracle.step_count,
            epoch=self.oracle.epoch,
            time=self.clock.now,
            wall=self.stopwatch.seconds(),
            loss=self.oracle.mean_loss(),
            energy=self.oracle.energy,
            **self.net.counters(),
        )
        for name in self.algorithm.metrics:
            self.log.algorithm_metric(self.round, name, getattr(self.algorithm, name))
        return x

    def save(self, x: Vector, store: CheckpointStore) -> None:
        """Write a checkpoint after this round; collective. The previous one is kept."""
        self.net.complete()
        self.log.flush()  # a resumed run continues the rows, so they must be on the disk as well
        if self.events:
            self.events.flush()
        store.write(self.round, self.state(x), self.shared_objects(), self.bound)
        self.control.barrier()  # only then is this checkpoint complete and an older one redundant
        store.rotate(self.round)

    def state(self, x: Vector) -> dict[str, Any]:
        """Return everything that the next round depends on, by name."""
        parts = {name: part.state() for name, part in self.parts.items()}
        return {"x": x, "algorithm": self.algorithm, **parts}

    def shared_objects(self) -> dict[str, object]:
        """Return the objects that a checkpoint stores by name: a resumed run builds them anew."""
        model = self.model
        parameters = {f"parameter {number}": p for number, p in enumerate(model.parameters)}
        objects = {"net": self.net, "pool": self.net.pool, "oracle": self.oracle, "model": model}
        return {**objects, "module": model.module, **parameters}

    def restore(self, store: CheckpointStore) -> Vector:
        """Restore the state of the last checkpoint; returns x."""
        state = store.read(self.state(self.model.x), self.shared_objects(), self.bound)
        for name, part in self.parts.items():
            part.restore(state[name])
        # The last round of a shorter run was evaluated, whether or not it is due in this one.
        phases = len(set(self.scenario.experiment.eval.phases))
        self.log.keep_rows(phases * sum(round_ <= store.round for round_ in self.due))
        x: Vector = state["x"]
        return x

    def evaluate(self, x: Vector) -> None:
        """Evaluate the model x after this phase if the experiment requires it; records a row."""
        if self.phase in self.scenario.experiment.eval.phases:
            phase = self.phase
            self.set_phase(f"evaluation after {phase}")
            if self.round == self.scenario.rounds:
                self.evaluator.use_all()
            with self.untimed():
                row = self.evaluator.measure(x)
            self.log.evaluation(self.round, phase, time=self.clock.now, **row)
            if self.evaluated and phase == self.last_phase and "validation_loss" in row:
                self.evaluated(row["validation_loss"])
            if (
                self.alignment
                and (self.log.rows - 1) % self.scenario.experiment.eval.alignment == 0
            ):
                with self.untimed():
                    self.log.alignment(self.round, phase, self.alignment.measure(x, self.round))

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """Exclude this block from real-time pacing: it takes no virtual time."""
        began = time.monotonic()
        yield
        if self.pacer:
            self.pacer.exclude(time.monotonic() - began)

    def failure(self, error: BaseException) -> str:
        """Return one line that names the peer, the place and the cause of a failure."""
        place = f"in phase {self.phase!r} of round {self.round}" if self.round else "at the start"
        return f"peer {self.rank} on {socket.gethostname()} failed {place}: {in_one_line(error)}"
