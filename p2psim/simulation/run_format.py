"""Format of a run's files: names, types, units and meanings of all datasets; status of a peer.

Each peer writes a file of its own, and `run.h5` shows the files of all peers as one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from p2psim.base import Metric, Task
from p2psim.experiment.scenario import Scenario
from p2psim.network.clock import EVENTS

# Dataset -> (type, unit, meaning). In run.h5 the first axis is the peer, the second the row.
TRAIN = {
    "round": ("i8", "", "rounds completed, from 1; -1: not reached"),
    "step": ("i8", "", "local steps completed"),
    "epoch": ("f8", "", "passes over the peer's own data"),
    "time": ("f8", "s", "virtual time"),
    "wall": ("f8", "s", "real time since the first round began"),
    "loss": ("f8", "", "mean minibatch loss over the round's local steps"),
    "bytes_sent": ("i8", "byte", "payload bytes handed to the transport, cumulative"),
    "bytes_received": ("i8", "byte", "payload bytes received, cumulative"),
    "messages_sent": ("i8", "", "messages handed to the transport, cumulative"),
    "header_bytes": ("i8", "byte", "header bytes handed to the transport, cumulative"),
    "energy": (
        "f8",
        "mJ",
        "of the gradients' operations, cumulative; NaN: the model does not count them",
    ),
}
EVAL = {
    "round": ("i8", "", "rounds completed, from 1; -1: not reached"),
    "phase": ("i8", "", "0 = after local, 1 = after consensus"),
    "time": ("f8", "s", "virtual time"),
    "loss": ("f8", "", "mean loss of the peer's model on the test samples"),
    "consensus_distance": ("f8", "", "sqrt(mean_i ||x_i - mean||^2), the same on every peer"),
}
# Dataset -> (shape, type, unit, meaning). Only the peer's own file has them, in the group "now":
# its current status, or its last status before a crash.
STATUS = {
    "phase": ((), "S32", "", "current phase"),
    "round": ((), "i8", "", "current round, from 1; 0: before the first"),
    "since": ((), "f8", "s", "Unix time of the phase's begin or of the last gradient"),
    "waits": ((), "f8", "s", "Unix time at which the wait for other peers began; 0: no wait"),
    "failure": ((), "S400", "", "reason of the peer's failure if the disk is full"),
    "waits_for": ((16,), "i8", "", "the first 16 of the peers that it waits for; -1: none"),
}
Layout: TypeAlias = dict[str, tuple[tuple[int, ...], str, str, str]]
COMPLETE = ("done", "diverged")  # values of the attribute "status" of a complete run
PHASES = ("local", "consensus")  # the numbers of /eval/phase are indices of this
# A row of /schedule/RANK, an event of the peer's clock.
KIND = h5py.enum_dtype({name: number for number, name in enumerate(EVENTS)}, "i1")
# `round` is the last field: readers take a row as complete once its round is set.
ROW = np.dtype(
    [("kind", KIND), ("other", "<i4"), ("begin", "<f8"), ("end", "<f8"), ("round", "<i4")]
)


def layout(scenario: Scenario) -> Layout:
    """Return path -> (shape, type, unit, meaning) of each dataset that every peer records.

    Shapes are those in a peer's file; in run.h5 the peer is an additional first axis. The status
    of a peer and its events are not included.
    """
    rows = len(scenario.eval_rounds()) * len(set(scenario.experiment.eval.phases))
    kind = "f4" if scenario.experiment.model_section.dtype == "float32" else "f8"
    return {
        **{f"train/{name}": ((scenario.rounds,), *spec) for name, spec in TRAIN.items()},
        **{f"eval/{name}": ((rows,), *spec) for name, spec in EVAL.items()},
        **{
            f"eval/{name}": ((rows, *metric.shape), "f8", metric.unit, metric.meaning)
            for name, metric in scenario.task.metrics.items()
        },
        # The first metric is the primary one, and the only one of these two.
        **{
            f"eval/mean_model_{name}": ((rows,), "f8", metric.unit, f"{name} of the mean model")
            for name, metric in primary(scenario.task)
        },
        **validation_layout(scenario, rows),
        **{
            f"algorithm/{name}": ((scenario.rounds,), "f8", "", meaning)
            for name, meaning in scenario.experiment.algorithm.metrics.items()
        },
        **alignment_layout(scenario, rows),
        "final/x": ((scenario.parameters,), kind, "", "the peer's vector at the end"),
    }


def validation_layout(scenario: Scenario, rows: int) -> Layout:
    """Return the datasets of the validation samples for `rows` evaluations, as `layout` does."""
    if not scenario.experiment.data.validates:
        return {}
    names = {"loss": "", **{name: metric.unit for name, metric in primary(scenario.task)}}
    return {
        f"eval/validation_{name}": ((rows,), "f8", unit, f"{name} on the validation samples")
        for name, unit in names.items()
    }


def primary(task: Task) -> Iterable[tuple[str, Metric]]:
    """Return the primary metric of a task with its name, or nothing if it has no metrics."""
    return itertools.islice(task.metrics.items(), 1)


def alignment_layout(scenario: Scenario, rows: int) -> Layout:
    """Return the datasets of /alignment for a run with `rows` evaluations, as `layout` does."""
    every = scenario.experiment.eval.alignment
    if not every:
        return {}
    count, weights = math.ceil(rows / every), sum(len(shape) > 1 for shape in scenario.shapes)
    meaning = (
        "cosine with the gradient of backpropagation, of each trained weight of two and more axes "
        "in torch's order"
    )
    return {
        "alignment/round": ((count,), *EVAL["round"]),
        "alignment/phase": ((count,), *EVAL["phase"]),
        "alignment/cosine": ((count, weights), "f8", "", meaning),
    }


def data_bytes(datasets: Iterable[tuple[tuple[int, ...], str]]) -> int:
    """Return the bytes of the entries of datasets, each given by its shape and type."""
    return sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in datasets)


def fill_value(kind: str) -> Any:
    """Return the value of entries that have not been recorded, for a type such as "f8"."""
    return {"i": -1, "f": np.nan, "S": b""}[kind[0]]


def result_file(rank: int) -> str:
    """Return the path, relative to the run folder and without suffix, of results of a task."""
    return f"peers/result-{rank:05d}"


def peer_file(rank: int) -> str:
    """Return the path of a peer's file, relative to the run folder."""
    return f"peers/peer-{rank:05d}.h5"


def schedule_file(rank: int) -> str:
    """Return the path of the file with the events of a peer's clock, relative to the run folder."""
    return f"peers/schedule-{rank:05d}.h5"


@dataclass
class PeerStatus:
    """Status of a peer: rank, host and most entries of STATUS; the last one before a crash."""

    rank: int
    host: str
    phase: str
    round: int
    since: float
    waits: float
    waits_for: list[int]


def peer_status(folder: Path, rank: int) -> PeerStatus:
    """Read the status of a peer from its file; OSError if the file cannot be read."""
    with h5py.File(folder / peer_file(rank), "r", locking=False) as file:
        values = {name: file["now"][name][()] for name in STATUS}
        return PeerStatus(
            rank,
            str(file.attrs["host"]),
            values["phase"].decode(),
            int(values["round"]),
            float(values["since"]),
            float(values["waits"]),
            [int(other) for other in values["waits_for"] if other >= 0],
        )
