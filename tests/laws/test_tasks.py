"""What holds for every task: its metrics add up, and run.h5 holds what its formulas say."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.utils import vector_to_parameters

from p2psim import registry
from p2psim.base import Metric
from p2psim.data.files import data_folder
from p2psim.experiment import scenario
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.sweep import assign
from p2psim.simulation import evaluation
from p2psim.simulation.minibatches import Samples
from tests.laws.test_resume import assert_same
from tests.support.datasets import sklearn_metrics
from tests.support.graphs import SmallGraph
from tests.support.runs import Table, new_folder, quadratic_table, quadratics, run_threads_in
from tests.support.scenes import write_rendered
from tests.support.thorough import thorough

Numbers = NDArray[Any]
ROUNDS = 12
VIEW = 30  # rays of a test view
TABLE: Table = {
    "name": "tasks",
    "seed": 5,
    "peers": 4,
    "rounds": ROUNDS,
    "learning": {"optimizer": {"name": "adam", "lr": 0.01}},
    "algorithm": {"name": "d-psgd"},
    "topology": {"name": "ring"},
    "eval": {"every": 3},
}


def classification(folder: Path) -> Table:
    partition = {"name": "skew", "s": 0.9}
    data = {"name": "digits", "batch_size": 32, "partition": partition}
    return {**TABLE, "data": data, "model": {"name": "mlp", "hidden": [8], "dtype": "float64"}}


def binary(folder: Path) -> Table:
    """Return a problem with few different rows: many test samples have equal scores."""
    random = np.random.default_rng(2)
    rows = [f"{y:+d} {random.integers(1, 6)}:1 9:{y + random.normal():.1f}" for y in (1, -1) * 90]
    (folder / "rows.txt").write_text("\n".join(rows))
    data = {"name": "libsvm", "file": "rows.txt", "batch_size": 16}
    return {**TABLE, "data": data, "model": {"name": "linear", "dtype": "float64"}}


def regression(folder: Path) -> Table:
    data = {"name": "diabetes", "batch_size": 16}
    return {**TABLE, "data": data, "model": {"name": "linear", "dtype": "float64"}}


def least_squares(folder: Path) -> Table:
    table = quadratic_table(quadratics(4), folder, "d-psgd", rounds=ROUNDS)
    return {**table, "eval": TABLE["eval"]}


def language_model(folder: Path) -> Table:
    words = np.random.default_rng(3).choice(["to be", "or not", "that is", "the question"], 400)
    (folder / "my.txt").write_text(", ".join(words))
    data = {"name": "text", "file": "my.txt", "length": 12, "batch_size": 8}
    small = {"causal": True, "width": 8, "heads": 2, "blocks": 1, "ff": 8, "dtype": "float64"}
    partition = {"partition": "contiguous"}
    return {**TABLE, "data": data | partition, "model": {"name": "transformer", **small}}


def nodes(folder: Path) -> Table:
    data = {"name": "planetoid", "graph": SmallGraph().write(folder)}
    model = {"name": "gcn", "hidden": 4, "dropout": 0.2, "dtype": "float64"}
    return {**TABLE, "peers": 3, "data": data, "model": model}


def links(folder: Path) -> Table:
    data = {"name": "planetoid-links", "graph": SmallGraph().write(folder)}
    model = {"name": "gae", "hidden": 8, "dtype": "float64"}
    learning = {"optimizer": {"name": "adam", "lr": 0.05}}
    return {**TABLE, "data": data, "model": model, "learning": learning}


def click_through(folder: Path) -> Table:
    """Return clicks that depend on the first category; many values are rare."""
    random = np.random.default_rng(4)
    rows = []
    for _ in range(240):
        category = int(random.integers(0, 4))
        values = [str(int(random.random() < 0.1 + 0.25 * category)), *["1", ""] * 6, "7"]
        rows.append([*values, f"c{category}", *(f"{random.integers(0, 12)}" for _ in range(25))])
    (folder / "clicks.txt").write_text("".join("\t".join(row) + "\n" for row in rows))
    shares = {"test_share": 0.3, "validation_share": 0.0}
    data = {"name": "criteo", "file": "clicks.txt", **shares, "batch_size": 16}
    return {**TABLE, "data": data, "model": {"name": "fm", "dim": 3, "dtype": "float64"}}


def view_synthesis(folder: Path) -> Table:
    """Return a problem with test views of VIEW rays, which all have one color."""
    if not (folder / "scene").is_dir():
        write_rendered(folder / "scene", [0.0, 1.0, 2.0, 3.0], size=(6, 5), color=30)
    data = {"name": "nerf-synthetic", "scene": str(folder / "scene"), "batch_size": 16}
    small = {"depth": 2, "width": 6, "position_levels": 1, "direction_levels": 0}
    samples = {"coarse_samples": 4, "fine_samples": 3}
    model = {"name": "nerf", **small, **samples, "dtype": "float64"}
    return {**TABLE, "data": {**data, "test_every": 1}, "model": model}


def a9a(folder: Path) -> Table:
    """Return the task "binary" on published data; skip the test where they are missing."""
    if not os.environ.get("P2PSIM_DATA") or not (data_folder() / "libsvm" / "a9a.t.gz").is_file():
        pytest.skip("P2PSIM_DATA has no libsvm/a9a.t.gz")
    data = {"name": "libsvm", "file": "a9a", "batch_size": 64}
    model = {"name": "linear", "dtype": "float64"}
    return {**TABLE, "data": data, "model": model, "eval": {"every": ROUNDS}}


CASES: dict[str, Callable[[Path], Table]] = {
    "classification": classification,
    "binary": binary,
    "regression": regression,
    "least-squares": least_squares,
    "language-model": language_model,
    "node-classification": nodes,
    "link-prediction": links,
    "click-through": click_through,
    "view-synthesis": view_synthesis,
}
PUBLISHED = {"a9a": a9a}


def hits(outputs: Numbers, targets: Numbers) -> Numbers:
    """Return which samples a model gets right; one logit stands for the classes 0 and 1."""
    one = outputs.shape[1] == 1
    predicted = outputs[:, 0] > 0 if one else outputs.argmax(axis=1)
    return np.equal(predicted, targets)


def mean_hits(outputs: Numbers, targets: Numbers, used: Numbers) -> float:
    return float(hits(outputs, targets)[used].mean()) if used.any() else float("nan")


def perplexity(outputs: Numbers, targets: Numbers) -> float:
    shifted = outputs - outputs.max(axis=2, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    return float(np.exp(-np.take_along_axis(logs, targets[..., None], axis=2).mean()))


def scored(outputs: Numbers, targets: Numbers) -> tuple[Numbers, Numbers]:
    """Return classes and scores: of one logit, or of an edge and a pair without one."""
    if outputs.shape[1] == 1:
        return targets, outputs[:, 0]
    return np.repeat([1, 0], len(outputs)), outputs.T.ravel()


def view_psnr(outputs: Numbers, targets: Numbers) -> Numbers:
    """Return the noise ratio of each view, by the last three outputs of a ray."""
    errors = (outputs[:, -3:] - targets.astype(float)).reshape(-1, VIEW, 3)
    ratios: Numbers = np.array([-10 * np.log10(np.mean(view**2)) for view in errors])
    return ratios


# Metric -> its formula of outputs, targets and the targets of the peer's own training samples.
FORMULAS: dict[str, Callable[[Numbers, Numbers, Numbers], Any]] = {
    "accuracy": lambda z, y, own: hits(z, y).mean(),
    "seen_accuracy": lambda z, y, own: mean_hits(z, y, np.isin(y, own)),
    "unseen_accuracy": lambda z, y, own: mean_hits(z, y, ~np.isin(y, own)),
    "class_accuracy": lambda z, y, own: [mean_hits(z, y, y == c) for c in range(y.max() + 1)],
    "auc": lambda z, y, own: sklearn_metrics().roc_auc_score(*scored(z, y)),
    "average_precision": lambda z, y, own: sklearn_metrics().average_precision_score(*scored(z, y)),
    "log_loss": lambda z, y, own: sklearn_metrics().log_loss(y, 1 / (1 + np.exp(-z[:, 0]))),
    "rmse": lambda z, y, own: sklearn_metrics().mean_squared_error(y, z[:, 0]) ** 0.5,
    "r2": lambda z, y, own: sklearn_metrics().r2_score(y, z[:, 0]),
    "perplexity": lambda z, y, own: perplexity(z, y),
    "psnr": lambda z, y, own: view_psnr(z, y).mean(),
    "view_psnr": lambda z, y, own: view_psnr(z, y),
}


class Prepared:
    """An experiment whose models are evaluated outside of a run, with torch in one process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder, self.table = folder, {**CASES, **PUBLISHED}[name](folder)
        self.scenario = scenario.load(assign(self.table, ()), folder)
        data = self.scenario.experiment.data
        self.dtype = getattr(torch, self.scenario.experiment.model_section.dtype)
        self.module = self.scenario.experiment.model.build(data.shape, data.outputs).to(self.dtype)
        self.module.eval()
        self.test = Samples(data, data.test(), self.dtype, "cpu")
        if data.validates:
            self.validation = Samples(data, data.validation_samples(), self.dtype, "cpu")

    def metrics(self, rank: int = 0) -> dict[str, Metric]:
        """Return the metrics of a peer."""
        Holdings(self.scenario).bind_task(rank)
        return dict(self.scenario.task.metrics)

    def own(self, rank: int) -> Numbers:
        """Return the targets of a peer's training samples."""
        return self.scenario.experiment.data.train(self.scenario.parts[rank])[1]

    def outputs(self, x: Numbers | None = None, samples: Samples | None = None) -> torch.Tensor:
        """Return the outputs of the model x, by default of a random one.

        They are those for all test samples, or for other samples.
        """
        if x is not None:
            vector_to_parameters(torch.from_numpy(x).to(self.dtype), self.module.parameters())
        with torch.no_grad():
            batch = (samples or self.test).values(slice(None))
            outputs: torch.Tensor = self.module(batch.inputs)
        return outputs

    def run(self) -> Path:
        """Run the experiment with all peers as threads; return the run folder."""
        place = new_folder(self.folder)
        run_threads_in(self.table, self.folder, place)
        return place


def assert_close(value: Any, expected: Any) -> None:
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


def test_every_task_and_metric_has_a_case(tmp_path: Path) -> None:
    assert set(CASES) == set(registry.names("task"))
    names = {metric for name in CASES for metric in Prepared(name, tmp_path).metrics()}
    assert names == set(FORMULAS)


@pytest.mark.parametrize("name", CASES)
def test_sums_add_up_over_batches_and_over_peers(name: str, tmp_path: Path) -> None:
    prepared, random = Prepared(name, tmp_path), np.random.default_rng(11)
    outputs, total = prepared.outputs(), prepared.test.count
    targets = prepared.test.targets.numpy()
    for key, metric in prepared.metrics().items():
        expected = FORMULAS[key](outputs.numpy(), targets, prepared.own(0))
        for pieces in (1, 2, 7, total):
            cuts = np.sort(random.choice(np.arange(1, total), pieces - 1, replace=False))
            bounds = [0, *cuts.tolist(), total]
            slices = [slice(a, b) for a, b in itertools.pairwise(bounds)]
            one, each = metric.zero(total), []
            for part in random.permutation(np.arange(pieces)):
                batch, own = prepared.test.values(slices[part]), metric.zero(total)
                metric.add(one, outputs[slices[part]], batch)
                metric.add(own, outputs[slices[part]], batch)
                each.append(own)
            assert_close(metric.result(one), expected)
            assert_close(metric.result(np.sum(each, axis=0)), expected)


@pytest.mark.parametrize(
    "name", [*CASES, *(thorough(name) if name == "a9a" else name for name in PUBLISHED)]
)
def test_the_file_holds_what_the_final_models_give(name: str, tmp_path: Path) -> None:
    check_file(Prepared(name, tmp_path))


@pytest.mark.parametrize("name", ["node-classification", "link-prediction"])
def test_test_and_validation_samples_in_many_forward_passes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few samples, such as those of these graphs, share one forward pass."""
    monkeypatch.setattr(evaluation, "CHUNK", 5)
    check_file(Prepared(name, tmp_path))


def check_file(prepared: Prepared) -> None:
    """Run an experiment and compare the last rows of /eval with the formulas."""
    place, targets = prepared.run(), prepared.test.targets.numpy()
    metrics = prepared.metrics()
    with h5py.File(place / "run.h5", locking=False) as file:
        x, attributes = file["final/x"][:], dict(file.attrs)
        columns = {key: rows for key, rows in file["eval"].items() if not rows.is_scale}
        table = {key: rows[:, -1] for key, rows in columns.items()}
        better = {key: rows.attrs.get("better") for key, rows in columns.items()}
    primary = next(iter(metrics), "loss")
    assert attributes["primary"] == primary
    assert list(attributes["metrics"]) == list(metrics)
    mean_of = [f"mean_model_{key}" for key in list(metrics)[:1]]
    always = {"round", "phase", "time", "loss", "consensus_distance"}
    validated = [f"validation_{key}" for key in ("loss", *list(metrics)[:1])]
    validates = prepared.scenario.experiment.data.validates
    assert set(table) == {*always, *metrics, *mean_of, *(validated if validates else ())}
    for key, metric in metrics.items():
        assert better[key] == metric.better
        for rank in range(len(x)):
            outputs = prepared.outputs(x[rank]).numpy()
            assert_close(table[key][rank], FORMULAS[key](outputs, targets, prepared.own(rank)))
    for key in mean_of:
        assert better[key] == metrics[primary].better
        outputs = prepared.outputs(x.mean(axis=0)).numpy()
        assert_close(table[key], FORMULAS[primary](outputs, targets, prepared.own(0)))
    parts = {"": prepared.test} | ({"validation_": prepared.validation} if validates else {})
    for prefix, samples in parts.items():
        for rank in range(len(x)):
            z = prepared.outputs(x[rank], samples)
            loss = prepared.scenario.task.loss(z, samples.values(slice(None)))
            assert_close(table[f"{prefix}loss"][rank], loss.item())
            if primary != "loss":
                own, y = prepared.own(rank), samples.targets.numpy()
                expected = FORMULAS[primary](z.numpy(), y, own)
                assert_close(table[f"{prefix}{primary}"][rank], expected)


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    assert_same(CASES[name](tmp_path), tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_learning_improves_what_the_task_measures(name: str, tmp_path: Path) -> None:
    with h5py.File(Prepared(name, tmp_path).run() / "run.h5", locking=False) as file:
        values = file["eval"][file.attrs["primary"]][:].mean(axis=0)
        better = file["eval"][file.attrs["primary"]].attrs.get("better", "lower")
    assert values[-1] > values[0] if better == "higher" else values[-1] < values[0]
