"""Metrics of tasks against scikit-learn and NumPy, and the checks of targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from p2psim import registry
from p2psim.base import Batch, DataSpec, Metric, Task
from p2psim.errors import InputError
from tests.support.datasets import sklearn_metrics

RANDOM = np.random.default_rng(7)
LABELS = RANDOM.integers(0, 2, 500)
SCORES = {
    "distinct": RANDOM.permutation(500) / 7,
    "ties": RANDOM.integers(0, 12, 500) / 4,
    "separated": LABELS + 0.1 * RANDOM.random(500),
    "reversed": -1.0 * LABELS,
    "all-equal": np.zeros(500),
    "infinite": np.where(RANDOM.random(500) < 0.1, np.inf, RANDOM.random(500)),
}


def bound(name: str, spec: DataSpec, targets: NDArray[Any]) -> Task:
    """Return a task that is bound to these targets."""
    task: Task = registry.names("task")[name]()
    task.check(spec, targets)
    task.bind(spec, targets)
    return task


def evaluate(metric: Metric, outputs: NDArray[Any], targets: NDArray[Any]) -> Any:
    """Return the metric of these outputs, added in one batch."""
    sums = metric.zero(len(targets))
    batch = Batch(None, torch.from_numpy(targets), targets.size)
    metric.add(sums, torch.from_numpy(outputs), batch)
    return metric.result(sums)


def auc(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    task = bound("binary", DataSpec((1,), 1, 2), labels)
    value: float = evaluate(task.metrics["auc"], scores[:, None], labels)
    return value


@pytest.mark.parametrize("kind", SCORES)
def test_auc_is_that_of_scikit_learn(kind: str) -> None:
    # scikit-learn refuses infinite scores; only the order of scores matters.
    finite = np.minimum(SCORES[kind], 1e300)
    assert abs(auc(SCORES[kind], LABELS) - sklearn_metrics().roc_auc_score(LABELS, finite)) <= 1e-12


def test_auc_counts_pairs() -> None:
    """Of two pairs, one is ordered right and one is a tie: (1 + 1/2) / 2."""
    assert auc(np.array([3.0, 1.0, 3.0]), np.array([1, 0, 0])) == 0.75


@pytest.mark.parametrize("labels", [np.zeros(5, np.int64), np.ones(5, np.int64)])
def test_auc_of_one_class_is_not_defined(labels: NDArray[Any]) -> None:
    assert math.isnan(auc(np.arange(5.0), labels))


def test_auc_of_a_score_that_is_no_number_is_not_defined() -> None:
    scores = np.array([0.1, np.nan, 0.3])
    assert math.isnan(auc(scores, np.array([0, 1, 1])))


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_regression_metrics_are_those_of_scikit_learn(columns: int, dtype: Any) -> None:
    targets = (5 + RANDOM.standard_normal((200, columns))).astype(dtype)
    outputs = (targets + 0.5 * RANDOM.standard_normal(targets.shape)).astype(dtype)
    task = bound("regression", DataSpec((4,), columns), targets)
    flat = targets.ravel().astype(np.float64), outputs.ravel().astype(np.float64)
    rmse = np.sqrt(sklearn_metrics().mean_squared_error(*flat))
    assert abs(evaluate(task.metrics["rmse"], outputs, targets) / rmse - 1) <= 1e-12
    r2 = sklearn_metrics().r2_score(*flat)
    assert abs(evaluate(task.metrics["r2"], outputs, targets) - r2) <= 1e-12
    loss = task.loss(torch.from_numpy(outputs), Batch(None, torch.from_numpy(targets), 1.0))
    assert abs(2 * loss.item() / rmse**2 - 1) <= 1e-5


def test_perplexity_is_that_of_numpy() -> None:
    outputs, targets = RANDOM.standard_normal((6, 9, 5)), RANDOM.integers(0, 5, (6, 9))
    task = bound("language-model", DataSpec((9,), 5, vocabulary=5), targets)
    probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=2, keepdims=True)
    chosen = np.take_along_axis(probabilities, targets[..., None], axis=2)
    expected = np.prod(chosen) ** (-1 / targets.size)  # inverse geometric mean
    assert abs(evaluate(task.metrics["perplexity"], outputs, targets) / expected - 1) <= 1e-12
    loss = task.loss(torch.from_numpy(outputs), Batch(None, torch.from_numpy(targets), 1.0))
    assert abs(math.exp(loss.item()) / expected - 1) <= 1e-12


def test_perplexity_of_a_hopeless_model_stays_finite() -> None:
    outputs, targets = np.array([[[1e6, 0.0]]]), np.array([[1]])
    task = bound("language-model", DataSpec((1,), 2, vocabulary=2), targets)
    assert 1e300 < evaluate(task.metrics["perplexity"], outputs, targets) < math.inf
    assert math.isnan(evaluate(task.metrics["perplexity"], np.nan * outputs, targets))


def test_log_loss_is_that_of_scikit_learn() -> None:
    outputs, targets = 3 * RANDOM.standard_normal((50, 1)), RANDOM.integers(0, 2, 50)
    task = bound("click-through", DataSpec((2,), 1, 2, [4, 4]), targets)
    expected = sklearn_metrics().log_loss(targets, 1 / (1 + np.exp(-outputs[:, 0])))
    assert abs(evaluate(task.metrics["log_loss"], outputs, targets) / expected - 1) <= 1e-12
    loss = task.loss(torch.from_numpy(outputs), Batch(None, torch.from_numpy(targets), 1.0))
    assert abs(loss.item() / expected - 1) <= 1e-12
    hopeless = evaluate(task.metrics["log_loss"], np.array([[1e4]]), np.array([0]))
    assert hopeless == 1e4


TEN = DataSpec((8,), 10, 10)
REAL = DataSpec((8,), 2)
TOKENS = DataSpec((4,), 7, vocabulary=7)
UNFIT: dict[str, tuple[str, DataSpec, NDArray[Any], str]] = {
    "label-too-large": ("classification", TEN, np.array([0, 10]), r"a label is 10.*0 to 9"),
    "label-negative": ("classification", TEN, np.array([3, -1]), r"a label is -1.*0 to 9"),
    "label-float": ("classification", TEN, np.array([1.0]), r"type float64.*integers 0 to 9"),
    "no-classes": ("classification", REAL, np.array([0]), r"no classes; remove the key"),
    "binary-ten": ("binary", TEN, np.array([0]), r"'binary' needs two classes and one output"),
    "binary-two": ("binary", DataSpec((8,), 1, 2), np.array([1, 2]), r"a label is 2.*0 to 1"),
    "regression-classes": ("regression", TEN, np.array([0]), r"'regression' needs .* without cl"),
    "regression-size": ("regression", REAL, np.zeros((3, 4)), r"2 numbers .* has 4 numbers"),
    "least-squares": ("least-squares", TEN, np.array([0]), r"'least-squares' needs targets"),
    "no-tokens": ("language-model", REAL, np.zeros((2, 8)), r"needs a data set of token ids"),
    "one-target": ("language-model", TOKENS, np.array([3]), r"a target for each token"),
    "no-fields": ("click-through", DataSpec((8,), 1, 2), np.array([0]), r"categorical fields.*'n"),
    "click-ten": ("click-through", DataSpec((2,), 1, 3, [4, 4]), np.array([0]), r"has .*3 classes"),
    "click-two": ("click-through", DataSpec((2,), 1, 2, [4, 4]), np.array([2]), r"a label is 2"),
    "token-too-large": ("language-model", TOKENS, np.array([[1, 7]]), r"a label is 7.*0 to 6"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_targets_that_do_not_fit_are_refused(case: str) -> None:
    name, spec, targets, message = UNFIT[case]
    with pytest.raises(InputError, match=message):
        bound(name, spec, targets)


def test_labels_may_have_any_integer_type() -> None:
    for dtype in (np.uint8, np.int32, np.int64):
        labels = LABELS.astype(dtype)
        task = bound("classification", DataSpec((2,), 2, 2), labels)
        outputs = np.stack([1.0 - LABELS, LABELS], axis=1)
        assert evaluate(task.metrics["accuracy"], outputs, labels) == 1.0
        batch = Batch(None, torch.from_numpy(labels), labels.size)
        assert task.loss(torch.from_numpy(outputs), batch).item() < math.log(2)
