"""Scenario of a run: data partition, topology and sizes, on which all peers must agree.

Every process derives the same Scenario from the experiment file and the seed; nothing is broadcast.
This module imports neither torch nor MPI, so that `p2psim plan` and the launcher can check the
experiment before a rank starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from p2psim import memory, rng
from p2psim.base import Indices, Setting, Shape, Task
from p2psim.errors import InputError
from p2psim.experiment import config
from p2psim.experiment.config import Experiment
from p2psim.experiment.data_check import check_attributes, check_labels
from p2psim.experiment.model_check import (
    bind_model,
    check_alignment,
    check_outputs,
    choose_task,
    tensors,
    trained_tensors,
)
from p2psim.experiment.run_length import mean_steps, rounds_of
from p2psim.models.cost_model import Account, account, stored_activations
from p2psim.models.layers import Cost
from p2psim.network import topology
from p2psim.registry import find

# Remedy in the error message for each property that an algorithm can require of W.
REMEDIES = {
    "row-stochastic": "choose weights such as metropolis or uniform-neighbor",
    "column-stochastic": 'set topology.weights = "out-degree"',
    "doubly-stochastic": 'choose an undirected topology with weights = "metropolis"',
    "symmetric": 'choose an undirected topology with weights = "metropolis"',
    "static": "choose a topology that does not change from step to step",
}
MATRICES = 6  # (n, n) in float64 in memory at the same time while a topology is built
COLUMNS = 9  # numbers in run.h5 for each peer and round


@dataclass
class Scenario:
    """Experiment with its data partition, its topology, its task and its sizes."""

    experiment: Experiment
    parts: list[Indices]  # training samples of each peer
    topology: topology.Topology
    task: Task
    shapes: list[Shape]  # of the model's parameters
    rounds: int
    steps_per_round: float  # local steps of a round: T, or where rounds end by the clock their mean
    example: Any = None  # raw input of one training sample, if the learning rule asks for it

    @property
    def peers(self) -> int:
        """Number of peers, n."""
        return self.experiment.head.peers

    @property
    def parameters(self) -> int:
        """Number of the model's parameters, d."""
        return sum(math.prod(shape) for shape in self.shapes)

    def batch_size(self, rank: int) -> int:
        """Return the size of a peer's minibatches: at most, and by default, its full local set."""
        local_samples = len(self.parts[rank])
        return min(self.experiment.data_section.batch_size or local_samples, local_samples)

    @property
    def largest_batch(self) -> int:
        """Samples of the largest minibatch of all peers."""
        return max(map(self.batch_size, range(self.peers)))

    @property
    def steps_per_epoch(self) -> int:
        """Local steps of an epoch: full minibatches of the peer that has the most of them."""
        return max(len(self.parts[i]) // self.batch_size(i) for i in range(self.peers))

    @property
    def epochs(self) -> float:
        """Length of the run in epochs of `steps_per_epoch` local steps."""
        return self.rounds * self.steps_per_round / self.steps_per_epoch

    @property
    def instant(self) -> bool:
        """True if messages take no virtual time."""
        return bool(getattr(self.experiment.time.link, "instant", False))

    @property
    def scheduled(self) -> bool:
        """True if virtual time advances and the peers record its events ([time] schedule)."""
        time = self.experiment.time
        return time.schedule and not (time.compute is None and self.instant)

    def operations(self, rank: int) -> float:
        """Return the floating-point operations of a local step: 6 for each MAC and each sample.

        A multiply-accumulate operation (MAC) is two operations, and the backward pass costs twice
        the forward pass. InputError if the model has no method `macs`.
        """
        model, data = self.experiment.model, self.experiment.data
        try:
            macs = model.macs(data.shape, data.outputs)
        except (AttributeError, NotImplementedError):
            raise InputError(
                "time.compute: 'flops' needs a model that counts its operations (macs); "
                "choose another compute model"
            ) from None
        return 6.0 * macs * self.batch_size(rank)

    @cached_property
    def cost(self) -> Cost | None:
        """Cost of the forward pass of one sample; None if the model has no method `cost`."""
        data, method = self.experiment.data, getattr(self.experiment.model, "cost", None)
        return method(data.shape, data.outputs) if method else None

    @cached_property
    def account(self) -> Account | None:
        """Cost of one iteration of the peer with the largest minibatch; None without `cost`."""
        return account(self.cost, self.parameters, self.largest_batch) if self.cost else None

    @property
    def activations(self) -> int:
        """Bytes of the activations that a step on the largest minibatch stores; 0 if unknown."""
        return 4 * self.largest_batch * stored_activations(self.cost) if self.cost else 0

    @property
    def widest(self) -> int:
        """Entries of the largest activation of one sample; a guess without a method `widest`."""
        data, method = self.experiment.data, getattr(self.experiment.model, "widest", None)
        return method(data.shape, data.outputs) if method else 16 * math.prod(data.shape)

    @property
    def setting(self) -> Setting:
        """Facts about the experiment for plug-ins, which `bind` passes to them."""
        head, graph = self.experiment.head, self.topology
        return Setting(
            seed=head.seed,
            peers=head.peers,
            local_steps=self.experiment.learning.local_steps,
            batch_sizes=[self.batch_size(rank) for rank in range(head.peers)],
            timed=self.experiment.time.compute is not None,
            instant=self.instant,
            folder=self.experiment.folder,
            operations=self.operations,
            linked=(graph.weights != 0).any(axis=0) | np.eye(head.peers, dtype=bool),
            edges=graph.links,
            consensus_steps=self.experiment.learning.consensus_steps,
            shapes=self.shapes,
            steps_per_epoch=self.steps_per_epoch,
            rounds=self.rounds,
            epochs=self.epochs,
            validates=self.experiment.data.validates,
        )

    def eval_rounds(self) -> list[int]:
        """Return the rounds, counted from 1, after which the models are evaluated."""
        every = self.experiment.eval.every
        rounds = list(range(every, self.rounds + 1, every))
        return rounds if rounds and rounds[-1] == self.rounds else [*rounds, self.rounds]


def prepare(experiment: Experiment) -> Scenario:
    """Build the Scenario of an experiment and check that its parts fit each other.

    The InputError for parts that do not fit names the key and a remedy.
    """
    head, data = experiment.head, experiment.data
    memory.check(
        MATRICES * 8 * head.peers**2,
        f"peers = {head.peers}: the mixing matrix and what is derived from it",
        "give fewer peers",
    )
    data.open(str(experiment.folder))
    check_attributes(experiment.table["data"]["name"], data)
    # The partition needs the labels; mixing weights and steps per epoch need the partition.
    parts = split(experiment)
    graph = topology.build(
        experiment.topology, head.peers, head.seed, experiment.folder, [len(p) for p in parts]
    )
    check_weights(experiment.algorithm, graph)
    task = choose_task(experiment)
    bind_model(experiment)
    shapes, example = trained_tensors(experiment, tensors(experiment), parts[0])
    check_outputs(experiment, task)
    check_alignment(experiment, shapes)
    steps = experiment.learning.local_steps
    scenario = Scenario(experiment, parts, graph, task, shapes, head.rounds or 1, steps, example)
    check_initial(scenario)
    check_batches(scenario)
    bind_time(scenario)
    if head.epochs:
        rounds_per_epoch = scenario.steps_per_epoch / scenario.steps_per_round
        scenario.rounds = rounds_of(head.epochs, rounds_per_epoch)
    bind_algorithm(scenario)
    experiment.table["topology"].setdefault("weights", graph.rule)
    memory.check(
        COLUMNS * 8 * head.peers * scenario.rounds,
        f"rounds = {scenario.rounds} with {head.peers} peers: the records",
        "give fewer rounds",
    )
    return scenario


def split(experiment: Experiment) -> list[Indices]:
    """Return the training samples of each peer, assigned by the data set or [data] partition."""
    head, section = experiment.head, experiment.data_section
    fixed = experiment.data.parts(head.peers)
    if fixed is not None:
        if section.partition or section.batch_size or section.classes:
            raise InputError(
                f"data {experiment.table['data']['name']!r} fixes who holds what and gives full "
                "gradients: remove data.partition, data.batch_size and data.classes"
            )
        return fixed
    partition: Any = section.partition
    if partition is None:
        partition = find("partition", "iid", experiment.folder)()
        experiment.table["data"]["partition"] = {"name": "iid"}
    stream = rng.generator(head.seed, "partition")
    name = experiment.table["data"]["name"]
    labels = check_labels(name, experiment.data.labels())
    if section.classes and not experiment.data.classes:
        raise InputError(f"data.classes: the data set {name!r} has no classes; remove the key")
    if section.classes and not experiment.data.split_by_class:
        raise InputError(
            f"data.classes: the data set {name!r} is not split by its classes; remove the key, or "
            "let the data set split by its classes"
        )
    used = select_classes(labels, section.classes)
    try:
        parts = partition.split(labels[used], head.peers, stream)
    except ValueError as error:
        raise InputError(f"data.partition: {error}") from None
    return [used[part] for part in parts]


def select_classes(labels: Indices, classes: list[int] | None) -> Indices:
    """Return the samples of these classes in order; InputError for a class without samples."""
    if classes is None:
        return np.arange(labels.size)
    known = np.unique(labels)
    if not classes or not np.isin(classes, known).all() or len(set(classes)) < len(classes):
        raise InputError(f"data.classes = {classes}: give some of {known.tolist()}, each once")
    return np.flatnonzero(np.isin(labels, classes))


def bind_time(scenario: Scenario) -> None:
    """Bind the models of time to the run; InputError if one does not fit."""
    setting, time = scenario.setting, scenario.experiment.time
    if time.realize and setting.instant and not setting.timed:
        raise InputError("time.realize = true: no virtual time passes; give compute or link too")
    for part in (time.compute, time.link):
        if part is not None:
            part.bind(setting)
    seconds = scenario.experiment.algorithm.round_seconds
    if seconds is not None and time.compute is not None:
        steps = mean_steps(time.compute, scenario.peers, seconds)
        scenario.steps_per_round = steps or scenario.steps_per_round


def bind_algorithm(scenario: Scenario) -> None:
    """Bind algorithm and optimizer to the run; InputError if their parameters do not fit."""
    experiment, setting = scenario.experiment, scenario.setting
    optimizer = experiment.learning.optimizer
    for name, plugin in (("algorithm", experiment.algorithm), ("learning.optimizer", optimizer)):
        if hasattr(plugin, "bind"):
            try:
                plugin.bind(setting)
            except ValueError as error:
                raise InputError(f"{name}: {error}") from None


def check_weights(algorithm: Any, graph: topology.Topology) -> None:
    """Check that the mixing matrix has the properties the algorithm requires; else InputError."""
    for need in algorithm.requires:
        if need not in REMEDIES:
            raise InputError(
                f"algorithm {algorithm.name!r}: requires = {algorithm.requires!r}; "
                f"give a tuple of some of {', '.join(REMEDIES)}"
            )
        if need not in graph.properties:
            have = ", ".join(sorted(graph.properties)) or "none of the usual properties"
            advice = algorithm.advice(graph.properties)
            remedy = REMEDIES[need] + f", or {advice}" * bool(advice)
            raise InputError(
                f"algorithm {algorithm.name!r} needs a {need} mixing matrix, but topology "
                f"{graph.name!r} with weights {graph.rule!r} has: {have}; {remedy}"
            )


def check_batches(scenario: Scenario) -> None:
    """Check that minibatches are not too small for the model, nor too large for the memory."""
    least = getattr(scenario.experiment.model, "smallest_batch", 1)
    sizes = [scenario.batch_size(rank) for rank in range(scenario.peers)]
    smallest = min(sizes)
    if smallest < least:
        name = scenario.experiment.table["model"]["name"]
        raise InputError(
            f"data.batch_size: the minibatches of peer {sizes.index(smallest)} have {smallest} "
            f"sample, but model {name!r} needs at least {least}; give a larger "
            "data.batch_size, or fewer peers"
        )
    if scenario.experiment.run.device == "cpu":
        memory.check(
            scenario.activations,
            f"data.batch_size: a minibatch of {scenario.largest_batch:,} samples in the model",
            "give a smaller data.batch_size",
        )


def check_initial(scenario: Scenario) -> None:
    """Check that an initial x of the data set fits the model; InputError otherwise."""
    initial = scenario.experiment.data.initial(0)
    if initial is not None and initial.size != scenario.parameters:
        raise InputError(
            f"model: has {scenario.parameters} parameters, but the data's x0 has {initial.size}; "
            'use model = "vector"'
        )


def load(table: dict[str, Any], folder: Any) -> Scenario:
    """Build the Scenario of the tables of an experiment file."""
    return prepare(config.check(table, folder))
