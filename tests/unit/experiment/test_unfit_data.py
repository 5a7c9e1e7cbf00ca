"""Data that do not fit a task or a model end with exit code 2 and one sentence, before a rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import (
    GOOD,
    QUADRATIC,
    Bench,
    Table,
    assert_refused,
    bench_in,
    invoke,
    p2psim,
    run,
    with_changes,
    write,
)
from tests.support.thorough import thorough

TEXT: Table = {
    "data": {"name": "text", "file": "my.txt", "length": 16, "partition": "contiguous"},
    "model": {"name": "transformer", "causal": True, "width": 8, "heads": 2, "ff": 8},
}
OWN: Table = {"data": {"name": "own.py:Own"}, "model": {"name": "linear"}}
# A data set of a user's own; parameters spoil one sample, of the training or the test part.
PLUGIN = """
import numpy as np
from p2psim.base import Data
from p2psim.registry import plugin

@plugin("data", "own")
class Own(Data):
    rows: int = 80
    label: int = 0
    value: str = "0"  # an experiment file allows finite numbers only
    test_label: int = 0
    test_value: str = "0"
    floats: bool = False

    outputs = 3
    classes = 3

    def open(self, folder):
        self.shape = (4,)

    def labels(self):
        return np.arange(self.rows) % 3

    def part(self, rows, label, value):
        inputs = np.ones((rows, 4), np.float32)
        inputs[-1, 2] = float(value)
        targets = np.arange(rows) % 3
        targets[-1] = label
        return inputs, targets.astype(float) if self.floats else targets

    def train(self, indices):
        inputs, targets = self.part(self.rows, self.label, self.value)
        return inputs[indices], targets[indices]

    def test(self):
        return self.part(9, self.test_label, self.test_value)
"""
CASES: dict[str, tuple[Table, tuple[str, ...]]] = {
    "label-too-large": ({**OWN, "data.label": 3}, ("a label is 3", "0 to 2", "correct the data")),
    "label-negative": ({**OWN, "data.label": -1}, ("a label is -1", "0 to 2")),
    "label-of-a-test-sample": ({**OWN, "data.test_label": 7}, ("a label is 7", "0 to 2")),
    "labels-are-floats": ({**OWN, "data.floats": True}, ("labels are of type float64", "convert")),
    "nan": (
        {**OWN, "data.value": "nan"},
        ("inputs of training sample 79 hold NaN or infinity", "correct the data"),
    ),
    "infinity-in-a-test-sample": (
        {**OWN, "data.test_value": "inf"},
        ("inputs of test sample 8 hold NaN or infinity", "correct the data"),
    ),
    "language-model-on-images": (
        {"learning.task": "language-model"},
        ("'language-model' needs a data set of token ids", "'text'", "another task"),
    ),
    "language-model-of-numbers": (
        {"data": {"name": "diabetes"}, "learning.task": "language-model"},
        ("'language-model' needs a data set of token ids",),
    ),
    "classification-of-numbers": (
        {"data": {"name": "diabetes"}, "learning.task": "classification"},
        ("learning.task: the data set has no classes", "remove the key", "another data set"),
    ),
    "binary-of-ten-classes": (
        {"learning.task": "binary"},
        ("'binary' needs two classes and one output", "choose"),
    ),
    "regression-of-classes": (
        {"learning.task": "regression"},
        ("'regression' needs targets of 10 numbers without classes", "remove the key"),
    ),
    "least-squares-of-classes": (
        {"learning.task": "least-squares"},
        ("'least-squares' needs targets of 10 numbers without classes",),
    ),
    "classification-of-a-problem": (
        {**QUADRATIC, "learning.task": "classification"},
        ("learning.task: the data set has no classes",),
    ),
    "not-causal": (
        {**TEXT, "model.causal": False},
        ("model 'transformer' gives outputs of shape (5,)", "needs (16, 5)", "other parameters"),
    ),
    "causal-for-classes": (
        {**TEXT, "learning.task": "classification"},
        ("gives outputs of shape (16, 5)", "'classification' needs (5,)", "another task"),
    ),
    "classes-of-a-text": (
        {**TEXT, "model.causal": False, "learning.task": "classification"},
        ("learning.task: the data set has no classes",),
    ),
    "text-for-a-model-of-numbers": (
        {**TEXT, "model": {"name": "mlp"}},
        ("'text' gives token ids", "'mlp' takes numbers", "transformer"),
    ),
    "numbers-for-a-model-of-texts": (
        {"data": {"name": "diabetes"}, "model": TEXT["model"]},
        ("'diabetes' gives numbers", "'transformer' takes token ids"),
    ),
    "window-longer-than-the-text": (
        {**TEXT, "data.length": 900},
        ("data.length = 900: the training part of 'my.txt' has 900 characters", "longer text"),
    ),
    "window-longer-than-the-held-out-end": (
        {**TEXT, "data.length": 100},
        ("data.length = 100: the test part of 'my.txt' has 100 characters", "shorter length"),
    ),
    "chosen-classes-of-a-text": (
        {**TEXT, "data.classes": [0]},
        ("data.classes: the data set 'text' has no classes", "remove the key"),
    ),
    "chosen-classes-of-numbers": (
        {"data": {"name": "diabetes", "classes": [0]}},
        ("data.classes: the data set 'diabetes' has no classes", "remove the key"),
    ),
}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "own.py").write_text(PLUGIN)
    (tmp_path / "my.txt").write_text("abc" * 333 + "\n")
    return bench_in(tmp_path, monkeypatch)


@pytest.mark.parametrize("case", CASES)
def test_is_refused(case: str, bench: Bench) -> None:
    changes, fragments = CASES[case]
    write(bench.folder, with_changes(GOOD, changes))
    bench.check_refused(*fragments)


@pytest.mark.parametrize("changes", [OWN, TEXT, {"data": {"name": "diabetes"}}])
def test_the_data_that_the_cases_start_from_fit(changes: Table, bench: Bench) -> None:
    write(bench.folder, with_changes(GOOD, changes))
    assert invoke("plan", bench.file).exit_code == 0


@pytest.mark.parametrize(
    ("key", "value", "fragment"),
    [
        ("data.value", "nan", "inputs of training sample 299999 hold NaN"),
        thorough("data.label", 5, "a label is 5"),
    ],
)
def test_one_spoiled_sample_of_large_data_is_refused_by_its_peer(
    key: str, value: object, fragment: str, tmp_path: Path
) -> None:
    """The launcher does not read all samples of large data; the peers do before they begin."""
    (tmp_path / "own.py").write_text(PLUGIN)
    changes = {**OWN, "peers": 2, "data.rows": 300_000, "data.partition": "contiguous"}
    write(tmp_path, with_changes(GOOD, {**changes, key: value}))
    ended = run(p2psim("run", "experiment.toml", "--out", "out"), tmp_path)
    assert_refused(ended.code, "\n".join(ended.messages()), (fragment, "correct the data"))
    assert not (tmp_path / "out").exists()
