"""Models of categorical fields against formulas in NumPy, and their gradients by feedback rules."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from p2psim import registry
from p2psim.base import Batch, DataSpec
from p2psim.errors import InputError
from p2psim.models.points import FeedbackPointModule
from p2psim.models.recommenders import DeepFactorizationMachine
from p2psim.registry import find
from tests.support.feedback import AutogradLearner

Numbers = NDArray[np.float64]
SIZES = [4, 7, 2, 5]  # ids of each field
SAMPLES = 6
PARAMS: dict[str, dict[str, Any]] = {
    "logistic-regression": {},
    "fm": {"dim": 3},
    "deepfm": {"dim": 3, "hidden": [5, 4]},
    "dcn": {"dim": 3, "hidden": [5, 4], "cross": 2},
    "afn": {"dim": 3, "hidden": [5, 4], "neurons": 6},
}


def model(name: str, **params: Any) -> Any:
    """The model, bound to fields with these sizes."""
    bound: Any = registry.names("model")[name](**{**PARAMS[name], **params})
    bound.bind(DataSpec((4,), 1, 2, SIZES), Path())
    return bound


def network(name: str, **params: Any) -> Any:
    """Its module in float64, where no parameter and no running statistic is 0 or 1."""
    torch.manual_seed(3)
    module = model(name, **params).build((4,), 1).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return module


def sample_ids() -> torch.Tensor:
    """Ids of some samples, offsets included."""
    random, offsets = np.random.default_rng(1), np.cumsum([0, *SIZES[:-1]])
    return torch.from_numpy(random.integers(0, SIZES, (SAMPLES, 4)) + offsets)


class Formulas:
    """Logits of one sample in NumPy, from the parameters and statistics of a module by name."""

    def __init__(self, module: nn.Module) -> None:
        self.values = {name: value.numpy() for name, value in module.state_dict().items()}

    def linear(self, ids: Numbers, name: str = "linear.") -> float:
        weight = self.values[f"{name}weight.weight"]
        return float(self.values[f"{name}bias"][0]) + sum(float(weight[i, 0]) for i in ids)

    def embeddings(self, ids: Numbers) -> Numbers:
        return np.stack([self.values["table.weight"][i] for i in ids])

    def pairs(self, ids: Numbers) -> float:
        """Rendle 2010, eq. 1: the double sum itself."""
        return sum(float(np.dot(a, b)) for a, b in combinations(self.embeddings(ids), 2))

    def norm(self, name: str, x: Numbers) -> Any:
        """Return the norm of x, whose first axis are the channels."""
        part = [
            self.values[f"{name}.{key}"]
            for key in ("running_mean", "running_var", "weight", "bias")
        ]
        mean, var, weight, bias = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in part)
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def layers(self, x: Numbers, last: bool = True) -> Any:
        """Hidden layers of a linear map, norm, ReLU, dropout and point each."""
        for number in (0, 5):
            weight, bias = (self.values[f"layers.{number}.{key}"] for key in ("weight", "bias"))
            x = np.maximum(self.norm(f"layers.{number + 1}", weight @ x + bias), 0)
        return self.last(x) if last else x

    def last(self, x: Numbers) -> Any:
        return (self.values["last.weight"] @ x + self.values["last.bias"])[0]

    def logistic_regression(self, ids: Numbers) -> float:
        return self.linear(ids, "")

    def fm(self, ids: Numbers) -> float:
        return self.linear(ids) + self.pairs(ids)

    def deepfm(self, ids: Numbers) -> Any:
        return self.fm(ids) + self.layers(self.embeddings(ids).ravel())

    def dcn(self, ids: Numbers) -> Any:
        """Wang et al. 2017, eq. 3: x_0 x_l^T is a matrix."""
        x0 = x = self.embeddings(ids).ravel()
        for layer in range(2):
            w, b = (
                self.values[f"cross.{layer}.weight.weight"][0],
                self.values[f"cross.{layer}.bias"],
            )
            x = np.outer(x0, x) @ w + b + x
        return self.last(np.concatenate([x, self.layers(x0, last=False)]))

    def afn(self, ids: Numbers) -> Any:
        logarithms = self.norm("neurons.before", np.log(np.abs(self.embeddings(ids))).T).T
        w, b = self.values["neurons.weights.weight"], self.values["neurons.weights.bias"]
        powers = [
            [np.prod(np.exp(logarithms[:, f]) ** w[j]) * np.exp(b[j]) for j in range(6)]
            for f in range(3)
        ]
        entries = self.norm("neurons.after", np.array(powers))
        return self.linear(ids) + self.layers(entries.ravel())


@pytest.mark.parametrize("name", PARAMS)
def test_logits_are_those_of_the_formula(name: str) -> None:
    module, ids = network(name), sample_ids()
    with torch.no_grad():
        logits = module.eval()(ids).numpy()
    formula: Callable[[Numbers], Any] = getattr(Formulas(module), name.replace("-", "_"))
    expected = [formula(row) for row in ids.numpy()]
    assert logits.shape == (SAMPLES, 1)
    assert np.ptp(logits) > 0.1
    np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-12, atol=1e-12)


def test_entries_near_zero_count_as_the_smallest_one() -> None:
    """Cheng, Shen & Huang's code: |e| < 1e-4 is 1e-4, of which the logarithm is finite."""
    module = network("afn", dropout=0).eval()
    logits = []
    for value in (0.0, -3e-5, 1e-4, -1e-4, 2e-4):
        nn.init.constant_(module.table.weight, value)
        logits.append(module(sample_ids()[:1]).item() - module.linear(sample_ids()[:1]).item())
    assert len({round(value, 12) for value in logits[:4]}) == 1
    assert abs(logits[4] - logits[0]) > 1e-6


@pytest.mark.parametrize("name", PARAMS)
def test_first_values(name: str) -> None:
    """Linear parts start at 0, embeddings within the bound of Glorot & Bengio 2010."""
    module = model(name).build((4,), 1)
    for part, value in module.named_parameters():
        if part.startswith("linear.") or name == "logistic-regression":
            assert not value.any()
        if part == "table.weight":
            bound = (6 / (sum(SIZES) + 3)) ** 0.5
            assert 0.8 * bound < float(value.detach().abs().max()) <= bound


@pytest.mark.parametrize(
    ("name", "points"),
    [("logistic-regression", 0), ("fm", 0), ("deepfm", 2), ("dcn", 5), ("afn", 4)],
)
def test_number_of_feedback_points(name: str, points: int) -> None:
    """dcn: embeddings, one of two cross layers, two hidden layers, their concatenation."""
    parts = network(name).modules()
    assert sum(type(part) is FeedbackPointModule for part in parts) == points


def gradients(module: nn.Module, rule: str) -> dict[str, torch.Tensor | None]:
    """The gradients of all parameters by a rule, for targets 0, 1, 0, 1 and so on."""
    bound: Any = find("rule", rule, Path())()
    if rule != "bp":
        bound.bind(module, lambda purpose, own=False: 7)
        bound.prepare(module.eval(), sample_ids()[:1])
        module.train()
    learner = AutogradLearner(module, logistic)
    bound.gradient(learner, Batch(sample_ids(), torch.arange(SAMPLES) % 2, SAMPLES))
    return {name: p.grad for name, p in module.named_parameters()}


def logistic(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.double())


def same(one: Any, other: Any) -> bool:
    return float((one - other).abs().max()) < 1e-15


@pytest.mark.parametrize("rule", ["dfa", "shallow"])
def test_deepfm_trains_its_embeddings_through_the_factorization_machine_alone(rule: str) -> None:
    module: DeepFactorizationMachine = network("deepfm", dropout=0)
    exact = gradients(module, "bp")
    outputs = module(sample_ids()).detach()
    e = module.table(sample_ids())
    fm = sum((e[:, i] * e[:, j]).sum(1) for i, j in combinations(range(4), 2))
    error = (outputs[:, 0].sigmoid() - torch.arange(SAMPLES) % 2) / SAMPLES
    (expected,) = torch.autograd.grad((fm * error).sum(), [module.table.weight])
    by_rule = gradients(module, rule)
    assert same(by_rule["table.weight"], expected)
    assert not same(exact["table.weight"], expected)
    for name in ("linear.bias", "linear.weight.weight", "last.weight", "last.bias"):
        assert same(by_rule[name], exact[name])
    hidden = by_rule["layers.0.weight"]
    assert hidden is None if rule == "shallow" else not same(hidden, exact["layers.0.weight"])


@pytest.mark.parametrize("name", ["dcn", "afn"])
def test_feedback_reaches_every_parameter(name: str) -> None:
    module = network(name, dropout=0)
    exact = gradients(module, "bp")
    by_feedback = gradients(module, "dfa")
    for key, value in by_feedback.items():
        assert value is not None
        assert value.any(), key
        is_exact = key.startswith(("last", "linear"))
        assert same(value, exact[key]) == is_exact or key.endswith("bias"), key


@pytest.mark.parametrize(("name", "largest"), [("dcn", 12 + 4), ("afn", 6 * 3)])
def test_feedback_of_embeddings_is_the_error_times_one_vector(name: str, largest: int) -> None:
    """With one logit, B is a row; every point receives its first entries."""
    module = network(name, dropout=0)
    by_feedback = gradients(module, "dfa")
    error = (module(sample_ids())[:, 0].sigmoid() - torch.arange(SAMPLES) % 2) / SAMPLES
    row = np.random.default_rng(7).uniform(-1, 1, largest) / largest**0.5
    expected = torch.zeros(sum(SIZES), 3).double()
    for sample, ids in enumerate(sample_ids()):
        feedback = error[sample] * torch.from_numpy(row[:12]).reshape(4, 3)
        expected.index_add_(0, ids, feedback.detach())
    assert same(by_feedback["table.weight"], expected)


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("dcn", {"last.weight", "last.bias"}),
        ("afn", {"last.weight", "last.bias", "linear.bias", "linear.weight.weight"}),
    ],
)
def test_shallow_trains_the_last_layer_and_the_linear_part(name: str, trained: set[str]) -> None:
    by_rule = gradients(network(name), "shallow")
    assert {key for key, value in by_rule.items() if value is not None} == trained


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize(("inputs", "outputs"), [((3,), 1), ((4,), 2), ((4, 1), 1)])
def test_other_samples_are_refused(name: str, inputs: tuple[int, ...], outputs: int) -> None:
    for method in (model(name).shapes, model(name).build):
        with pytest.raises(InputError, match=r"one id for each of 4 fields and has one output"):
            method(inputs, outputs)
