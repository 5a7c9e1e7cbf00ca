"""Checks that model, task and data set fit each other; InputError names the key and a remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from p2psim import memory, registry
from p2psim.base import Indices, Model, Shape, Task
from p2psim.errors import InputError
from p2psim.experiment.config import Experiment
from p2psim.experiment.data_check import check_pair, check_samples
from p2psim.registry import find

# Kinds of samples in messages, see base.DataSpec.samples.
SAMPLES = {
    "nodes": "nodes of a graph",
    "pairs": "pairs of nodes",
    "rays": "rays through a scene",
    "fields": "categorical fields",
    "tokens": "token ids",
    "numbers": "numbers",
}
VECTORS = 8  # of length d in memory in the dry run of a peer: x, gradient, state, messages


def choose_task(experiment: Experiment) -> Task:
    """Return the task of [learning], or the data set's default."""
    if experiment.learning.task is not None:
        return experiment.learning.task
    name = experiment.data.task
    experiment.table["learning"]["task"] = {"name": name}
    task: Task = find("task", name, experiment.folder)()
    return task


def bind_model(experiment: Experiment) -> None:
    """Bind the model to the data set; InputError if it does not fit data set or precision."""
    model, spec, table = experiment.model, experiment.data.spec(), experiment.table
    taken = getattr(model, "samples", Model.samples)
    if taken != spec.samples:
        models = registry.names("model").items()
        fitting = [
            name for name, cls in models if getattr(cls, "samples", Model.samples) == spec.samples
        ]
        raise InputError(
            f"data {table['data']['name']!r} gives {SAMPLES[spec.samples]}, but model "
            f"{table['model']['name']!r} takes {SAMPLES.get(taken, taken)}; choose one of the "
            f"models {', '.join(sorted(fitting))}, or another data set"
        )
    if hasattr(model, "bind"):
        model.bind(spec, experiment.folder)
    check_precision(experiment)


def tensors(experiment: Experiment) -> list[Shape]:
    """Return the shapes of the model's parameters; InputError if they do not fit data or memory."""
    model, data = experiment.model, experiment.data
    try:
        # A class that inherits `shapes` from the interface returns None.
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


def trained_tensors(
    experiment: Experiment, shapes: list[Shape], samples: Indices
) -> tuple[list[Shape], Any]:
    """Return the shapes of the parameters that the learning rule trains, and an example.

    shapes: of all parameters of the model. The example is the raw input of the first of these
    training samples; it is read if the rule asks for it by a method `prepare`, and otherwise None.
    InputError if tensors that the rule does not train would differ between the peers.
    """
    data, rule = experiment.data, experiment.learning.rule
    if not hasattr(rule, "prepare"):
        return shapes, None
    from p2psim.learning.rules import trained_shapes  # imports torch

    name, dtype = experiment.table["data"]["name"], experiment.model_section.dtype
    first = check_pair(name, "train", data.train(samples[:1]))
    check_samples(name, data, "training", first, samples[:1], dtype)
    trained = trained_shapes(experiment.model, data, rule, first[0])
    if len(trained) < len(shapes) and experiment.model_section.init == "own":
        raise InputError(
            'model.init = "own": the learning rule does not train all tensors of the model, and '
            "peers do not exchange the others, so that models of different peers would not fit "
            'together; give model.init = "same"'
        )
    return trained, first[0]


def check_outputs(experiment: Experiment, task: Task) -> None:
    """Check that the model's outputs have the shape that the task needs; InputError otherwise."""
    model, spec, table = experiment.model, experiment.data.spec(), experiment.table
    needed = task.output_shape(spec)
    method = getattr(model, "output_shape", None)
    shape = method(experiment.data.shape, spec.outputs) if method else (spec.outputs,)
    if not task.accepts(shape, spec):
        name = table["model"]["name"]
        raise InputError(
            f"model {name!r} gives outputs of shape {shape} for a sample, but the task "
            f"{table['learning']['task']['name']!r} needs {needed}; give the model other "
            f"parameters (see `p2psim list model {name}`), choose another model or, with "
            "learning.task, another task"
        )


def check_precision(experiment: Experiment) -> None:
    """Check that the model has a layer for the precision; InputError otherwise."""
    precision, model = experiment.learning.precision, experiment.model
    allowed = getattr(model, "precisions", Model.precisions)
    if precision not in allowed:
        raise InputError(
            f"learning.precision = {precision!r}: model {experiment.table['model']['name']!r} has "
            f"no layer that is computed in it; give {' or '.join(map(repr, allowed))}"
        )


def check_alignment(experiment: Experiment, shapes: Sequence[Shape]) -> None:
    """Check that there are gradients whose angles could be measured; InputError otherwise."""
    if experiment.eval.alignment and all(len(shape) < 2 for shape in shapes):
        raise InputError(
            "eval.alignment: the model has no weights of two and more axes, whose gradients could "
            "be compared; remove the key"
        )
