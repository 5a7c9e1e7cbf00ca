"""Trial of a user's model, data set, task and learning rule on a few samples before the start.

Plug-ins of p2psim are not tried here, because that imports torch: the tests check them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from p2psim.base import Batch, Metric
from p2psim.errors import InputError, in_one_line, quoted
from p2psim.experiment.data_check import Raw
from p2psim.experiment.holdings import Holdings, rows
from p2psim.experiment.scenario import Scenario
from p2psim.experiment.trial import Trial, check_names
from p2psim.simulation.run_format import EVAL

if TYPE_CHECKING:
    import torch

    from p2psim.simulation.flat_model import FlatModel

TRAINED, TESTED = 2, 64  # most samples of the step and of the evaluation
# Names in /eval, or of columns that the tables derive from it, that are no metric of a task.
RESERVED = (*EVAL, "peer", "row")


def check_learning(holdings: Holdings) -> None:
    """Try a step and an evaluation if one of the plug-ins of learning is the user's own.

    InputError names the plug-in that fails, or returns what it must not return. The samples of
    `holdings` have been checked.
    """
    scenario = holdings.scenario
    experiment, task = scenario.experiment, scenario.task
    check_metrics(task.metrics, experiment.table["learning"]["task"]["name"])
    plugins = (experiment.model, experiment.data, task, experiment.learning.rule)
    if not any(map(is_own, (*plugins, *task.metrics.values()))):
        return
    if is_own(experiment.model):
        check_shapes(scenario)
    with Trial(experiment.run.patience, "a step on a few samples", "the plug-in"):
        try_step(holdings)


def is_own(plugin: object) -> bool:
    """Return True for an object whose class is not one of p2psim."""
    return not type(plugin).__module__.startswith("p2psim.")


def check_metrics(metrics: Any, task: str) -> None:
    """Check the metrics of a task: a dict of objects with the attributes of base.Metric."""
    where = f"task {task!r}: metrics"
    check_names(metrics, where, RESERVED)
    for name, metric in metrics.items():
        lacking = [a for a in ("unit", "better", "meaning", "shape") if not hasattr(metric, a)]
        if isinstance(metric, type) or lacking:
            problem = "a class" if isinstance(metric, type) else f"without {', '.join(lacking)}"
            raise InputError(
                f"{where}: {name!r} is {problem}; give an object with the attributes and methods "
                "of p2psim.base.Metric"
            )
        if metric.better not in ("higher", "lower"):
            raise InputError(
                f"{where}: {name!r} has better = {metric.better!r}; give 'higher' or 'lower'"
            )


def check_shapes(scenario: Scenario) -> None:
    """Check that a model's `build` makes the parameters that its `shapes` returns."""
    model, data = scenario.experiment.model, scenario.experiment.data
    module = model.build(data.shape, data.outputs)
    built = [tuple(p.shape) for p in module.parameters() if p.requires_grad]
    shapes = [tuple(shape) for shape in model.shapes(data.shape, data.outputs)]
    if built != shapes:
        raise InputError(
            f"model {scenario.experiment.table['model']['name']!r}: `build` makes parameters of "
            f"the shapes {quoted(built)}, but `shapes` gives {quoted(shapes)}; make them "
            "agree"
        )


@contextlib.contextmanager
def trying(plugin: str, action: str, cure: str) -> Iterator[None]:
    """Turn an exception into an InputError that names the plug-in and what it could not do."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{plugin}: it {action}: {in_one_line(error)}; {cure}") from error


def try_step(holdings: Holdings) -> None:
    """Compute metrics of some test samples, and a gradient of training samples of peer 0."""
    import torch

    from p2psim.simulation.flat_model import FlatModel
    from p2psim.simulation.minibatches import Samples

    scenario = holdings.scenario
    experiment = scenario.experiment
    named = {kind: f"{kind} {experiment.table[kind]['name']!r}" for kind in ("data", "model")}
    for kind in ("task", "rule"):
        named[kind] = f"{kind} {experiment.table['learning'][kind]['name']!r}"
    rule = named["rule"]
    # A copy: attributes that the trial sets must not be state of the run.
    learning = replace(experiment.learning, rule=copy.deepcopy(experiment.learning.rule))
    tried = replace(scenario, experiment=replace(experiment, learning=learning))
    with trying(rule, "failed at `bind`", "correct it"):
        model = FlatModel(tried, 0)
    if model.x.size != scenario.parameters:
        raise InputError(
            f"{rule}: the model has {model.x.size} parameters after `bind`, but its `shapes` give "
            f"{scenario.parameters}; a rule must not add parameters"
        )

    def batch_of(raw: Raw, chosen: Any) -> Batch:
        part = rows(raw[0], chosen), raw[1][chosen]
        return Samples(experiment.data, part, model.g.dtype, "cpu").values(slice(None))

    # Spread over the test set: metrics such as the AUC need samples of several classes.
    spread = np.linspace(0, len(holdings.test[1]) - 1, TESTED).astype(int)
    batch = batch_of(holdings.test, np.unique(spread))
    shape = experiment.data.shape
    cure = f"correct the data or the model, which must take samples of shape {shape}"
    action = f"cannot process the samples of {named['data']}"
    with trying(named["model"], action, cure), torch.no_grad():
        outputs = model.module.eval()(batch.inputs)
    check_outputs(scenario, named, outputs, len(batch.targets))
    check_metric_values(scenario, named["task"], outputs, batch)
    batch = batch_of(holdings.train(0), slice(0, TRAINED))
    check_loss(model, named["task"], batch)
    check_gradient(model, learning.rule, rule, batch)


def check_outputs(scenario: Scenario, named: Mapping[str, str], outputs: Any, samples: int) -> None:
    """Check that the outputs have the shape that the task needs."""
    shape = tuple(getattr(outputs, "shape", (type(outputs).__name__,)))
    task, spec = scenario.task, scenario.experiment.data.spec()
    needed = (samples, *task.output_shape(spec))
    if shape[:1] != (samples,) or not task.accepts(shape[1:], spec):
        raise InputError(
            f"{named['model']}: its outputs have the shape {shape} for {samples} samples, but the "
            f"{named['task']} needs {needed}; correct `build`"
        )


def check_metric_values(scenario: Scenario, task: str, outputs: torch.Tensor, batch: Batch) -> None:
    """Check that each metric gives real numbers of its shape for these outputs."""
    for name, metric in scenario.task.metrics.items():
        value = metric_value(f"{task}: metric {name!r}", metric, outputs, batch)
        try:
            fits = np.shape(np.asarray(value, float)) == tuple(metric.shape) and value is not None
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise InputError(
                f"{task}: metric {name!r}: `result` has returned {quoted(value)}; it must return "
                f"a real number, or an array of them, of the shape {tuple(metric.shape)}"
            )


def metric_value(where: str, metric: Metric, outputs: torch.Tensor, batch: Batch) -> Any:
    """Return a metric of one batch."""
    with trying(where, "failed on test samples", "correct it"):
        sums = metric.zero(len(batch.targets))
        if not isinstance(sums, np.ndarray) or sums.dtype != np.float64:
            raise TypeError(f"`zero` has returned {quoted(sums)}, not an array of float64")
        metric.add(sums, outputs, batch)
        return metric.result(sums)


def check_loss(model: FlatModel, task: str, batch: Batch) -> None:
    """Check that the loss is a finite scalar that can be differentiated."""
    import torch

    outputs = model.module.train()(batch.inputs)
    with trying(task, "failed at `loss`", "correct it"):
        loss: Any = model.loss(outputs, batch)
    scalar = isinstance(loss, torch.Tensor) and not loss.ndim
    if not scalar or not loss.requires_grad:
        returned = (
            f"a tensor of shape {tuple(loss.shape)}"
            if isinstance(loss, torch.Tensor)
            else (f"a value of type {type(loss).__name__}")
        )
        raise InputError(
            f"{task}: `loss` has returned {returned}{' without a gradient' * scalar}; it must "
            "return the mean loss as a scalar tensor that is computed from the outputs"
        )
    if not torch.isfinite(loss):
        raise InputError(
            f"{task}: the loss is {loss.item()} at the initial model; correct "
            "`loss`, the data or the initialization"
        )


def check_gradient(model: FlatModel, rule: Any, name: str, batch: Batch) -> None:
    """Check that the rule fills the gradient and returns the loss as a number."""
    g = model.g
    g.fill_(np.nan)
    with trying(name, "failed at `gradient`", "correct it"):
        loss = rule.gradient(model, batch)
    if model.g is not g or bool(g.isnan().any()):
        raise InputError(
            f"{name}: `gradient` has not filled learner.g with numbers; call "
            "learner.backward(loss), or write all entries of learner.g"
        )
    if not isinstance(loss, int | float | np.number):
        raise InputError(
            f"{name}: `gradient` has returned a value of type {type(loss).__name__}; it must "
            "return the loss as a number, such as loss.item()"
        )
