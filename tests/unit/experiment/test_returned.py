"""Values of a wrong type or shape that a user's plug-in returns end with exit code 2 and the cure.

Each case is one mistake in a file that is right without it; no rank starts.
"""

from __future__ import annotations

import pytest

from tests.support.programs import GOOD, Bench, Table, invoke, with_changes, write
from tests.support.thorough import thorough

DATA = """
import numpy as np
from p2psim.base import Data
from p2psim.registry import plugin

@plugin("data", "own")
class Own(Data):
    mistake: str = ""

    def open(self, folder):
        generator = np.random.default_rng(0)
        self.x = generator.normal(size=(60, 6)).astype(np.float32)
        self.y = np.arange(60) % 3
        self.shape, self.outputs, self.classes = (6,), 3, 3
        {open}

    def labels(self):
        return {labels}

    def train(self, indices):
        return {train}

    def test(self):
        return {test}
"""
RIGHT = {
    "open": "pass",
    "labels": "self.y[:40]",
    "train": "(self.x[indices], self.y[indices])",
    "test": "(self.x[40:], self.y[40:])",
}
# Part of the class, its mistake, fragments of the message.
WRONG_DATA: dict[str, tuple[str, str, str]] = {
    "no pair": ("test", "None", "`test` has returned nothing; it must return a pair of NumPy"),
    "three": ("train", "(1, 2, 3)", "`train` has returned a value of type tuple"),
    "lists": (
        "train",
        "(self.x[indices].tolist(), self.y[indices])",
        "`train` has returned a pair with a value of type list",
    ),
    "text": (
        "train",
        "(self.x[indices].astype(str), self.y[indices])",
        "a pair with an array of <U32 of shape (40, 6); it must return a pair of NumPy arrays of "
        "real numbers",
    ),
    "complex": (
        "test",
        "(self.x[40:].astype(complex), self.y[40:])",
        "`test` has returned a pair with an array of complex128",
    ),
    "few": ("train", "(self.x[indices][1:], self.y[indices])", "39 rows, but there are 40 samples"),
    "wide": ("test", "(self.x[40:, :3], self.y[40:])", "have the shape (3,), but shape = (6,)"),
    "empty": ("test", "(self.x[:0], self.y[:0])", "there are no test samples"),
    "columns": ("test", "(self.x[40:], self.y[40:, None])", "has targets of shape (20, 1)"),
    "labels": ("labels", "list(self.y[:40])", "`labels` has returned a value of type list"),
    "floats": ("labels", "self.y[:40] / 1", "an array of float64 of shape (40,); it must return"),
    "other labels": ("labels", "(self.y[:40] + 1) % 3", "make `labels` and `train` agree"),
    "shape": ("open", "self.shape = 6", "shape = 6; give the shape of one sample, a tuple"),
    "no shape": ("open", "del self.shape", "`open` has not set self.shape"),
    "outputs": ("open", "self.outputs = 2.5", "outputs = 2.5; give a whole number >= 1"),
    "few outputs": ("open", "self.outputs = 2", "3 classes and 2 outputs"),
    "scale": ("open", "self.scale = np.ones(5)", "that broadcasts over a sample of shape (6,)"),
    "shift": ("open", "self.shift = 'a'", "shift = 'a'; give a finite number"),
    "NaN": ("open", "self.scale = float('nan')", "scale = nan; give a finite number"),
    "large": ("open", "self.scale = 1e300", "more than float32 holds; scale the data"),
    "vocabulary": ("open", "self.vocabulary = [3, 0]", "vocabulary = [3, 0]; give the number of"),
    "context": ("open", "self.context = {'edges': [[0, 1]]}", "give a dictionary of NumPy arrays"),
    "no validation": (
        "open",
        "self.validates = True",
        "`validation_samples` is missing; add it, or leave validates = False",
    ),
    "changed": ("train", "(indices.fill(0), self.y[indices])", "read-only"),
}

TASK = """
import numpy as np
from torch.nn.functional import cross_entropy
from p2psim.base import Task
from p2psim.registry import plugin

class Hits:
    unit, better, meaning, shape = "", {better}, "share of hits", ()

    def zero(self, samples):
        return {zero}

    def add(self, sums, outputs, batch):
        sums += [(outputs.argmax(1) == batch.targets).sum().item(), len(batch.targets)]

    def result(self, sums):
        return {result}

@plugin("task", "own")
class Own(Task):
    def bind(self, spec, own):
        self.metrics = {metrics}

    def loss(self, outputs, batch):
        loss = cross_entropy(outputs, batch.targets)
        return {loss}
"""
RIGHT_TASK = {
    "better": "'higher'",
    "zero": "np.zeros(2)",
    "result": "sums[0] / sums[1]",
    "metrics": '{"hits": Hits()}',
    "loss": "loss",
}
WRONG_TASK: dict[str, tuple[str, str, str]] = {
    "list": ("metrics", "[Hits()]", "give a dict by name"),
    "class": ("metrics", '{"hits": Hits}', "'hits' is a class; give an object"),
    "object": ("metrics", '{"hits": 3}', "'hits' is without unit, better, meaning, shape"),
    "order": ("better", '"smaller"', "'hits' has better = 'smaller'; give 'higher' or 'lower'"),
    "slash": ("metrics", '{"a/b": Hits()}', "'a/b' is no name"),
    "taken": ("metrics", '{"loss": Hits()}', "the name 'loss' is taken"),
    "mean": ("metrics", '{"mean_model_hits": Hits()}', "is taken; choose another name"),
    "zero": ("zero", "[0.0, 0.0]", "`zero` has returned [0.0, 0.0], not an array of float64"),
    "vector": ("result", "sums", "of the shape ()"),
    "none": ("result", "None", "`result` has returned None"),
    "error": ("result", "1 / 0", "ZeroDivisionError"),
    "no mean": (
        "loss",
        "cross_entropy(outputs, batch.targets, reduction='none')",
        "`loss` has returned a tensor of shape (2,); it must return the mean loss as a scalar",
    ),
    "number": ("loss", "loss.item()", "`loss` has returned a value of type float"),
    "detached": ("loss", "loss.detach()", "without a gradient"),
    "NaN": ("loss", "loss * float('nan')", "the loss is nan at the initial model"),
    "exit": ("loss", "exit(5)", "failed at `loss`: SystemExit: 5"),
}

RULE = """
import torch
from p2psim.registry import plugin

@plugin("rule", "own")
class Own:
    def bind(self, module, key):
        {bind}

    def gradient(self, learner, batch):
        loss = learner.loss(learner.module(batch.inputs), batch)
        {gradient}
        return {loss}
"""
RIGHT_RULE = {"bind": "pass", "gradient": "learner.backward(loss)", "loss": "loss.item()"}
WRONG_RULE: dict[str, tuple[str, str, str]] = {
    "parameter": (
        "bind",
        "module.more = torch.nn.Parameter(torch.zeros(3))",
        "a rule must not add parameters",
    ),
    "bind": ("bind", "raise ValueError('no')", "failed at `bind`: ValueError: no"),
    "not filled": ("gradient", "pass", "`gradient` has not filled learner.g"),
    "another": ("gradient", "learner.g = torch.zeros(3)", "has not filled learner.g"),
    "NaN": ("gradient", "learner.g.fill_(torch.nan)", "has not filled learner.g with numbers"),
    "none": ("loss", "None", "a value of type NoneType; it must return the loss as a number"),
    "tensor": ("loss", "loss", "such as loss.item()"),
}

COMPRESSOR = """
import numpy as np
from p2psim.registry import plugin

@plugin("compressor", "own")
class Own:
    def bind(self, shapes, stream):
        pass

    def encode(self, v, out):
        out[: v.nbytes] = v.view(np.uint8)
        return {encode}

    def decode(self, payload, out):
        out[:] = payload.view(out.dtype)

    def max_bytes(self, d, itemsize=4):
        return {most}
"""
RIGHT_COMPRESSOR = {"encode": "v.nbytes", "most": "itemsize * d"}
WRONG_COMPRESSOR: dict[str, tuple[str, str, str]] = {
    "none": ("encode", "None", "`encode` has returned None; it must return the number of bytes"),
    "float": ("encode", "v.nbytes / 1", "a whole number from 0 to"),
    "negative": ("encode", "-1", "`encode` has returned -1"),
    "more": ("encode", "out.size + 1", "(`max_bytes`)"),
    "most": ("most", "4.0 * d", "it must return a whole number of bytes >= 0"),
}

ALGORITHM = """
from p2psim.base import Algorithm
from p2psim.registry import plugin

@plugin("algorithm", "own")
class Own(Algorithm):
    metrics = {metrics}

    def consensus(self, x, oracle, net):
        self.count = {count}
        return net.mix(x)
"""
RIGHT_ALGORITHM = {"metrics": '{"count": "a count"}', "count": "1"}
WRONG_ALGORITHM: dict[str, tuple[str, str, str]] = {
    "list": ("metrics", '["count"]', "metrics = ['count']; give a dict by name"),
    "text": ("count", "'abc'", "the attribute 'count' is 'abc' after a round"),
    "array": ("count", "x", "set it to a number in every round"),
}
NAME = "plug.py:Own"
# Kind -> (source, the parts that are right, the mistakes, the tables that use the plug-in).
KINDS: dict[str, tuple[str, dict[str, str], dict[str, tuple[str, str, str]], Table]] = {
    "data": (DATA, RIGHT, WRONG_DATA, {"data": NAME, "model": "linear"}),
    "task": (TASK, RIGHT_TASK, WRONG_TASK, {"learning.task": NAME}),
    "rule": (RULE, RIGHT_RULE, WRONG_RULE, {"learning.rule": NAME}),
    "compressor": (
        COMPRESSOR,
        RIGHT_COMPRESSOR,
        WRONG_COMPRESSOR,
        {"algorithm": {"name": "choco-sgd", "compressor": NAME}},
    ),
    "algorithm": (ALGORITHM, RIGHT_ALGORITHM, WRONG_ALGORITHM, {"algorithm": NAME}),
}
CASES = [f"{kind}: {name}" for kind, (_, _, wrong, _) in KINDS.items() for name in wrong]
MAIN = ("three", "few", "other labels", "large", "taken", "vector", "detached", "not filled")


def is_main(case: str) -> bool:
    """Return True for a case that `make test` runs, too."""
    kind, name = case.split(": ")
    return name in MAIN or kind in ("compressor", "algorithm")


def write_plugin(bench: Bench, kind: str, parts: dict[str, str]) -> None:
    """Write a plug-in of this kind and an experiment that uses it."""
    source, _, _, changes = KINDS[kind]
    for part, code in parts.items():  # not str.format: the sources have braces of their own
        source = source.replace(f"{{{part}}}", code)
    (bench.folder / "plug.py").write_text(source)
    table = with_changes(GOOD, {"peers": 4, **changes})
    write(bench.folder, table)


@pytest.mark.parametrize("case", [case if is_main(case) else thorough(case) for case in CASES])
def test_a_wrong_value_is_refused(case: str, bench: Bench) -> None:
    kind, name = case.split(": ")
    part, code, fragment = KINDS[kind][2][name]
    write_plugin(bench, kind, {**KINDS[kind][1], part: code})
    bench.check_refused(fragment, call=("run", bench.file, "--out", "out"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_plugins_that_the_cases_start_from_are_accepted(kind: str, bench: Bench) -> None:
    write_plugin(bench, kind, KINDS[kind][1])
    result = invoke("run", bench.file, "--out", "out")
    assert isinstance(result.exception, AssertionError), result.stderr  # ranks would start
