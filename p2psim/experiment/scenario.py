"""What all peers must agree on, derived by each alone from the experiment file and the seed.

No rank is special and nothing is broadcast: every process builds the same Scenario. It needs
neither torch nor MPI, so `p2psim plan` and the launcher check everything before a rank starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from p2psim import memory, rng
from p2psim.base import Indices, Model, Setting, Shape, Task
from p2psim.errors import InputError, quoted
from p2psim.experiment import config
from p2psim.experiment.config import Experiment
from p2psim.models.cost_model import Account, account
from p2psim.models.layers import Cost
from p2psim.network import topology
from p2psim.registry import find

CURES = {
    "row-stochastic": "choose weights such as metropolis or uniform-neighbor",
    "column-stochastic": 'set topology.weights = "out-degree"',
    "doubly-stochastic": 'choose an undirected topology with weights = "metropolis"',
    "symmetric": 'choose an undirected topology with weights = "metropolis"',
    "static": "choose a topology that does not change from step to step",
}
MATRICES = 6  # (n, n) in float64 that exist at a time while a graph is built
VECTORS = 8  # of length d in the dry run of a peer: x, gradient, state, messages
COLUMNS = 9  # numbers of a peer and round in run.h5


@dataclass
class Scenario:
    """The experiment, its split of the data, its graph and its sizes."""

    experiment: Experiment
    parts: list[Indices]  # training samples of each peer
    topology: topology.Topology
    task: Task
    shapes: list[Shape]  # of the model's parameters
    rounds: int

    @property
    def peers(self) -> int:
        """n."""
        return self.experiment.head.peers

    @property
    def parameters(self) -> int:
        """d."""
        return sum(math.prod(shape) for shape in self.shapes)

    def batch_size(self, rank: int) -> int:
        """Samples of a minibatch; the full local set where the experiment gives none."""
        own = len(self.parts[rank])
        return min(self.experiment.data_section.batch_size or own, own)

    @property
    def steps_per_epoch(self) -> int:
        """Local steps in which the peer with most data sees all of it; the remainder is dropped."""
        return max(len(self.parts[i]) // self.batch_size(i) for i in range(self.peers))

    @property
    def epochs(self) -> float:
        """Length of the run in epochs of `steps_per_epoch` local steps."""
        return self.rounds * self.experiment.learning.local_steps / self.steps_per_epoch

    @property
    def instant(self) -> bool:
        """Whether messages take no virtual time."""
        return bool(getattr(self.experiment.time.link, "instant", False))

    @property
    def scheduled(self) -> bool:
        """Whether virtual time passes and the peers write down how."""
        time = self.experiment.time
        return time.schedule and not (time.compute is None and self.instant)

    def operations(self, rank: int) -> float:
        """Floating-point operations of a local step: 6 for each of the model's macs and sample."""
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
        """What the model's forward pass of a sample takes; None where it does not tell."""
        data, tell = self.experiment.data, getattr(self.experiment.model, "cost", None)
        return tell(data.shape, data.outputs) if tell else None

    @cached_property
    def account(self) -> Account | None:
        """What an iteration takes on the peer with the largest minibatch."""
        b = max(map(self.batch_size, range(self.peers)))
        return account(self.cost, self.parameters, b) if self.cost else None

    @property
    def widest(self) -> int:
        """Entries of the model's largest activation of a sample; a guess where it does not tell."""
        data, tell = self.experiment.data, getattr(self.experiment.model, "widest", None)
        return tell(data.shape, data.outputs) if tell else 16 * math.prod(data.shape)

    @property
    def setting(self) -> Setting:
        """What plug-ins may need to know of the experiment."""
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
            epochs=self.epochs,
        )

    def eval_rounds(self) -> list[int]:
        """Rounds (from 1) after which the models are evaluated."""
        every = self.experiment.eval.every
        due = list(range(every, self.rounds + 1, every))
        return due if due and due[-1] == self.rounds else [*due, self.rounds]


def prepare(experiment: Experiment) -> Scenario:
    """Check what only shows when the parts meet; InputError names the key and the cure."""
    head, data = experiment.head, experiment.data
    memory.check(
        MATRICES * 8 * head.peers**2,
        f"peers = {head.peers}: the mixing matrix and what is derived from it",
        "give fewer peers",
    )
    data.open(str(experiment.folder))
    parts = split(experiment)
    graph = topology.build(
        experiment.topology, head.peers, head.seed, experiment.folder, [len(p) for p in parts]
    )
    check_weights(experiment.algorithm, graph)
    task = choose_task(experiment)
    bind_model(experiment)
    check_precision(experiment)
    shapes = tensors(experiment)
    check_outputs(experiment, task)
    scenario = Scenario(experiment, parts, graph, task, shapes, head.rounds or 1)
    check_initial(scenario)
    check_parameters(scenario)
    if head.epochs:
        steps = head.epochs * scenario.steps_per_epoch
        rounds = steps / experiment.learning.local_steps
        if rounds > config.MOST_ROUNDS:
            raise InputError(
                f"epochs = {head.epochs:g}: that is {rounds:g} rounds; "
                f"give fewer, at most {config.MOST_ROUNDS} rounds"
            )
        scenario.rounds = max(1, math.ceil(rounds - 1e-9))
    experiment.table["topology"].setdefault("weights", graph.rule)
    memory.check(
        COLUMNS * 8 * head.peers * scenario.rounds,
        f"rounds = {scenario.rounds} with {head.peers} peers: the records",
        "give fewer rounds",
    )
    return scenario


def split(experiment: Experiment) -> list[Indices]:
    """The training samples of each peer, by the data itself or by [data] partition."""
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
    labels = experiment.data.labels()
    if section.classes and not experiment.data.classes:
        name = experiment.table["data"]["name"]
        raise InputError(f"data.classes: the data set {name!r} has no classes; remove the key")
    used = of_classes(labels, section.classes)
    try:
        parts = partition.split(labels[used], head.peers, stream)
    except ValueError as error:
        raise InputError(f"data.partition: {error}") from None
    return [used[part] for part in parts]


def of_classes(labels: Indices, wanted: list[int] | None) -> Indices:
    """The samples of the classes that are wanted, in order; InputError for one that has none."""
    if wanted is None:
        return np.arange(labels.size)
    known = np.unique(labels)
    if not wanted or not np.isin(wanted, known).all():
        raise InputError(f"data.classes = {wanted}: give some of {known.tolist()}")
    return np.flatnonzero(np.isin(labels, wanted))


def check_parameters(scenario: Scenario) -> None:
    """Refuse parameters that do not suit the run; models of time learn what they model."""
    setting, time = scenario.setting, scenario.experiment.time
    if time.realize and setting.instant and not setting.timed:
        raise InputError("time.realize = true: no virtual time passes; give compute or link too")
    try:
        scenario.experiment.algorithm.bind(setting)
    except ValueError as error:
        raise InputError(f"algorithm: {error}") from None
    for part in (time.compute, time.link):
        if part is not None:
            part.bind(setting)


def choose_task(experiment: Experiment) -> Task:
    """Return the task of [learning], or the data set's default."""
    if experiment.learning.task is not None:
        return experiment.learning.task
    name = experiment.data.task
    experiment.table["learning"]["task"] = {"name": name}
    task: Task = find("task", name, experiment.folder)()
    return task


def check_outputs(experiment: Experiment, task: Task) -> None:
    """Check that the model's outputs have the shape that the task needs; InputError otherwise."""
    model, spec, table = experiment.model, experiment.data.spec(), experiment.table
    needed = task.output_shape(spec)
    describe = getattr(model, "output_shape", None)
    shape = describe(experiment.data.shape, spec.outputs) if describe else (spec.outputs,)
    if shape != needed:
        raise InputError(
            f"model {table['model']['name']!r} gives outputs of shape {shape} for a sample, but "
            f"the task {table['learning']['task']['name']!r} needs {needed}; give the model other "
            "parameters (see `p2psim list model`), choose another model or, with learning.task, "
            "another task"
        )


def bind_model(experiment: Experiment) -> None:
    """Bind the model to the data set; InputError where samples are ids and it needs numbers."""
    model, data, table = experiment.model, experiment.data, experiment.table
    tokens = getattr(model, "tokens", False)
    if tokens != bool(data.vocabulary):
        given, wanted = ("numbers", "token ids") if tokens else ("token ids", "numbers")
        cure = "data 'ag-news', or another model" if tokens else "model 'transformer'"
        raise InputError(
            f"data {table['data']['name']!r} gives {given}, but model {table['model']['name']!r} "
            f"takes {wanted}; take {cure}"
        )
    if hasattr(model, "bind"):
        model.bind(data.spec(), experiment.folder)


def tensors(experiment: Experiment) -> list[Shape]:
    """The shapes of the model's parameters; InputError where samples do not suit it."""
    model, data = experiment.model, experiment.data
    try:
        # The interface's own `shapes`, where a class inherits it, returns None.
        shapes = [tuple(shape) for shape in model.shapes(data.shape, data.outputs) or ()]
    except ValueError as error:
        raise InputError(f"model: {error}") from None
    if not shapes:
        raise InputError(
            f"model {experiment.table['model']['name']!r} has no parameters: give its class a "
            "method shapes(inputs, outputs) that returns their shapes"
        )
    if max(math.prod(shape) for shape in shapes) >= 2**31:
        raise InputError("model: a tensor has 2^31 entries or more; make its layers smaller")
    d = sum(math.prod(shape) for shape in shapes)
    itemsize = np.dtype(experiment.model_section.dtype).itemsize
    memory.check(
        VECTORS * d * itemsize,
        f"model: {d:,} parameters, of which a peer keeps about {VECTORS} copies,",
        "make its layers smaller",
    )
    return shapes


def check_build(scenario: Scenario) -> None:
    """Check that a model of the user builds the parameters that its `shapes` gives.

    InputError otherwise. It imports torch, hence is no part of `prepare`; models of p2psim itself
    are tested.
    """
    experiment, model = scenario.experiment, scenario.experiment.model
    if type(model).__module__.startswith("p2psim."):
        return
    data, name = experiment.data, experiment.table["model"]["name"]
    module = model.build(data.shape, data.outputs)
    built = [tuple(parameter.shape) for parameter in module.parameters()]
    if built != scenario.shapes:
        raise InputError(
            f"model {name!r}: `build` makes parameters of the shapes {quoted(built)}, but `shapes` "
            f"gives {quoted(scenario.shapes)}; make them agree"
        )


def check_precision(experiment: Experiment) -> None:
    """Refuse a precision in which nothing of the model would be computed."""
    given, model = experiment.learning.precision, experiment.model
    allowed = getattr(model, "precisions", Model.precisions)
    if given not in allowed:
        raise InputError(
            f"learning.precision = {given!r}: model {experiment.table['model']['name']!r} has no "
            f"layer that is computed in it; give {' or '.join(map(repr, allowed))}"
        )


def check_weights(algorithm: Any, graph: topology.Topology) -> None:
    """Refuse a mixing matrix that the algorithm cannot use."""
    for need in algorithm.requires:
        if need not in CURES:
            raise InputError(
                f"algorithm {algorithm.name!r}: requires = {algorithm.requires!r}; "
                f"give a tuple of some of {', '.join(CURES)}"
            )
        if need not in graph.properties:
            have = ", ".join(sorted(graph.properties)) or "none of the usual properties"
            advice = algorithm.advice(graph.properties)
            cure = CURES[need] + f", or {advice}" * bool(advice)
            raise InputError(
                f"algorithm {algorithm.name!r} needs a {need} mixing matrix, but topology "
                f"{graph.name!r} with weights {graph.rule!r} has: {have}; {cure}"
            )


def check_initial(scenario: Scenario) -> None:
    """A first x that the data fixes must fit the model."""
    first = scenario.experiment.data.initial(0)
    if first is not None and first.size != scenario.parameters:
        raise InputError(
            f"model: has {scenario.parameters} parameters, but the data's x0 has {first.size}; "
            'use model = "vector"'
        )


def load(table: dict[str, Any], folder: Any) -> Scenario:
    """From tables to a Scenario."""
    return prepare(config.check(table, folder))
