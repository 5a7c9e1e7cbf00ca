"""One peer's life: what every rank runs from the first round to the last."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from p2psim.base import Vector
from p2psim.errors import StoppedError
from p2psim.experiment.scenario import Scenario
from p2psim.network.clock import Clock, RealTimePacer
from p2psim.network.neighborhood import Neighborhood, silent
from p2psim.network.transport import Transport
from p2psim.rng import RandomStream
from p2psim.simulation import allocator, recorder
from p2psim.simulation.agreement import Decision, RoundAgreement
from p2psim.simulation.checkpoint import CheckpointStore
from p2psim.simulation.event_log import EventLog

COUNTERS = ("bytes_sent", "bytes_received", "messages_sent", "header_bytes")


class Simulation:
    """A peer at work. `phase` and `round` say where it is, for whoever must report a failure."""

    def __init__(
        self,
        scenario: Scenario,
        wire: Transport,
        control: Neighborhood,
        log: recorder.Recorder,
        schedule: EventLog | None = None,
    ) -> None:
        self.scenario, self.wire, self.control, self.log = scenario, wire, control, log
        self.clock, self.schedule = Clock(schedule), schedule
        self.realized: RealTimePacer | None = None
        self.net = Neighborhood(wire, scenario.topology, self.clock, scenario.experiment.time.link)
        self.net.control = control
        self.algorithm = scenario.experiment.algorithm
        self.round = 0
        self.set_phase("start")

    def set_phase(self, phase: str) -> None:
        """Say where this peer is."""
        self.phase = phase
        self.log.set_phase(phase, self.round)
        if self.schedule:
            self.schedule.round = self.round

    def prepare(self) -> Vector:
        """Bind the plug-ins to this peer and build the model; torch is first needed here."""
        from p2psim.simulation.evaluation import Evaluator
        from p2psim.simulation.oracle import Batches, FlatModel, LocalOracle, Samples

        scenario, rank = self.scenario, self.wire.rank
        data, seed = scenario.experiment.data, scenario.experiment.head.seed
        for compressor in self.algorithm.compressors():
            compressor.bind(scenario.shapes, RandomStream(seed, "compressor", rank))
        self.model = FlatModel(scenario, rank)
        train, _ = scenario.hold(rank)
        samples = Samples(data, train, self.model.g.dtype, scenario.device)
        batches = Batches(data, samples, scenario.batch_size(rank), seed, rank)
        self.oracle = LocalOracle(scenario, self.model, batches, self.clock)
        self.oracle.alive = self.log.alive
        self.evaluator = Evaluator(scenario, self.model, self.control)
        scenario.held = scenario.trains = None  # what is not in use by now may go
        self.due = set(scenario.eval_rounds())
        return self.model.x

    def run(self, agreement: RoundAgreement, store: CheckpointStore) -> None:
        """All rounds that are left; the peer's file holds the rows so far at any moment.

        StoppedError where the peers agreed to stop before the last one.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # the rows show what has diverged
            self.rounds(self.prepare(), agreement, store)

    def rounds(self, x: Vector, agreement: RoundAgreement, store: CheckpointStore) -> None:
        """From the first x, or from a checkpoint, to the last."""
        self.algorithm.start(x, self.oracle, self.net)
        self.net.pool.arrays.clear()  # a start may take other sizes than the rounds
        self.wall = 0.0
        if store.round:
            self.net.drain()  # what `start` has sent counts no more
            x = self.restore(store)
        allocator.keep_freed_memory()
        self.control.maximum(np.zeros(1))  # all are ready: real time starts together
        self.began = time.perf_counter() - self.wall
        if self.scenario.experiment.time.realize:
            self.realized = RealTimePacer(self.clock.now, self.log.alive)
            self.clock.sleep = self.realized.sleep
        for number in range(store.round + 1, self.scenario.rounds + 1):
            self.round = number
            x = self.one_round(x)
            decision = agreement(number) if number < self.scenario.rounds else Decision()
            if decision.checkpoint:
                self.set_phase("checkpoint")
                with self.untimed():
                    self.save(x, store)
            if decision.stop:
                raise StoppedError
        self.set_phase("end")
        self.net.drain()
        self.net.alarm = self.control.alarm = silent  # the file that it writes to is being closed
        self.log.close(x)
        if self.schedule:
            self.schedule.close()
        self.control.maximum(np.zeros(1))  # nobody leaves before all have finished

    def one_round(self, x: Vector) -> Vector:
        """Local phase, consensus phase, one row."""
        self.set_phase("local")
        self.oracle.begin(x)
        x = self.check_vector(self.algorithm.local(x, self.oracle, self.net))
        self.evaluate(x)
        self.set_phase("consensus")
        for _ in range(self.scenario.experiment.learning.consensus_steps):
            x = self.check_vector(self.algorithm.consensus(x, self.oracle, self.net))
            self.net.step += 1
        self.oracle.end(x)
        self.evaluate(x)
        self.set_phase("record")
        self.log.train(
            self.round,
            step=self.oracle.step_count,
            epoch=self.oracle.epoch,
            time=self.clock.now,
            wall=time.perf_counter() - self.began,
            loss=self.oracle.mean_loss(),
            energy=self.oracle.energy,
            **{name: getattr(self.net, name) for name in COUNTERS},
        )
        self.log.algorithm_row(
            self.round, {k: getattr(self.algorithm, k) for k in self.algorithm.metrics}
        )
        return x

    def check_vector(self, x: Vector) -> Vector:
        """What a phase has returned; TypeError unless it is a vector like the model's."""
        like = self.model.x
        if not isinstance(x, np.ndarray) or (x.shape, x.dtype) != (like.shape, like.dtype):
            what = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            raise TypeError(f"it has returned {what}, not {like.dtype} {like.shape}")
        return x

    def save(self, x: Vector, store: CheckpointStore) -> None:
        """Write a checkpoint of this moment, beside the one before."""
        self.net.complete()
        self.log.flush()  # the rows up to here must not be lost either
        if self.schedule:
            self.schedule.flush()
        store.write(self.round, self.state(x), self.shared_objects())
        self.control.maximum(np.zeros(1))  # all have written theirs: older ones may go
        store.rotate(self.round)

    def state(self, x: Vector) -> dict[str, Any]:
        """All that the next round depends on, by name."""
        return {
            "x": x,
            "algorithm": self.algorithm,
            "optimizer": self.oracle.optimizer,
            "rule": self.oracle.rule,
            "buffers": {k: b.cpu() for k, b in self.model.module.named_buffers()},
            "under way": list(self.net.in_flight),
            "numbers": {
                "step": self.net.step,
                "steps": self.oracle.step_count,
                "losses": self.oracle.losses,
                "energy": self.oracle.energy,
                "time": self.clock.now,
                "uplink": self.clock.uplink,
                "events": self.schedule.events if self.schedule else 0,
                "wall": time.perf_counter() - self.began,
                "rows": self.log.rows,
                **{name: getattr(self.net, name) for name in COUNTERS},
            },
        }

    def shared_objects(self) -> dict[str, object]:
        """What state may refer to and every peer has anyway."""
        model = self.model
        parameters = {f"parameter {number}": p for number, p in enumerate(model.parameters)}
        there = {"net": self.net, "pool": self.net.pool, "oracle": self.oracle, "model": model}
        return {**there, "module": model.module, **parameters}

    def restore(self, store: CheckpointStore) -> Vector:
        """Be where the checkpoint was written; returns x."""
        self.began = time.perf_counter()
        found = store.read(self.state(self.model.x), self.shared_objects())
        numbers = found["numbers"]
        for name, buffer in self.model.module.named_buffers():
            buffer.copy_(found["buffers"][name])  # the module goes on with its own
        self.net.step, self.net.in_flight = numbers["step"], set(found["under way"])
        for name in COUNTERS:
            setattr(self.net, name, numbers[name])
        self.oracle.step_count, self.oracle.losses = numbers["steps"], numbers["losses"]
        self.oracle.energy = numbers["energy"]
        self.clock.now, self.clock.uplink = numbers["time"], numbers["uplink"]
        self.wall = numbers["wall"]
        if self.schedule:
            self.schedule.rewind(numbers["events"])
        self.log.rewind(store.round, numbers["rows"])
        x: Vector = found["x"]
        return x

    def evaluate(self, x: Vector) -> None:
        """Measure x after this phase, where the experiment asks for it."""
        if self.round in self.due and self.phase in self.scenario.experiment.eval.phases:
            phase = self.phase
            self.set_phase(f"evaluation after {phase}")
            if self.round == self.scenario.rounds:
                self.evaluator.use_all()
            with self.untimed():
                row = self.evaluator.measure(x)
            self.log.evaluation(self.round, phase, time=self.clock.now, **row)

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """What takes no virtual time: realized time is not late because of it."""
        began = time.monotonic()
        yield
        if self.realized:
            self.realized.exclude(time.monotonic() - began)

    def failure(self, error: BaseException) -> str:
        """Which peer failed, where and why, in one line."""
        cause = f"{type(error).__name__}: {error}".replace("\n", " ")
        return (
            f"peer {self.wire.rank} on {socket.gethostname()} failed in phase {self.phase!r} "
            f"of round {self.round}: {cause}"
        )
