"""Tables, figures and watch follow the metrics of a run's task, the primary one first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from p2psim.analysis import metrics, results
from p2psim.analysis.tables import quantity
from p2psim.cli import main
from p2psim.launcher import run_requests, runner
from tests.support.graphs import SmallGraph
from tests.support.runs import EXPERIMENT

SETTINGS = {
    "classification": [],
    "regression": ["data={name='diabetes',batch_size=16}", "model=linear"],
    "language-model": [
        "data={name='text',file='my.txt',length=8,batch_size=4}",
        "model={name='transformer',causal=true,width=8,heads=2,ff=8}",
    ],
    "node-classification": [
        "data={name='planetoid',graph='ind.small'}",
        "model={name='gcn',hidden=4}",
        "learning.optimizer={name='adam',lr=0.1}",
        "rounds=30",
    ],
    "binary": ["data={name='libsvm',file='rows.txt',batch_size=8}", "model=linear"],
    "least-squares": ["data={name='quadratic',file='problem.npz'}", "model=vector"],
}
# Task -> the metrics that tables show, the primary one first; accuracies by class are not shown.
SHOWN = {
    "classification": ["accuracy"],
    "regression": ["rmse", "r2"],
    "language-model": ["perplexity"],
    "node-classification": ["accuracy"],
    "binary": ["accuracy", "auc"],
    "least-squares": [],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("runs"), np.random.default_rng(1)
    (folder / "small.toml").write_text(EXPERIMENT)
    SmallGraph().write(folder)
    (folder / "my.txt").write_text("to be or not to be, " * 40)
    rows = [f"{y:+d} 1:{y + random.normal():.2f} 2:1" for y in (1, -1) * 60]
    (folder / "rows.txt").write_text("\n".join(rows))
    a, b = random.normal(size=(4, 5, 3)), random.normal(size=(4, 5))
    np.savez(folder / "problem.npz", A=a, b=b)
    for name, settings in SETTINGS.items():
        made = run_requests.requests(folder / "small.toml", tuple(settings), folder / name)
        runner.run(made, True, None)
    return folder


def call(*arguments: object) -> str:
    """Return the output of `p2psim ARGUMENTS`, which must succeed."""
    terminal = CliRunner(env={"COLUMNS": "200"})  # so that no label is broken
    result = terminal.invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def last(place: Path, task: str, name: str) -> float:
    """Return the mean over the peers of a column of /eval in its last row."""
    with h5py.File(place / task / "run.h5", locking=False) as file:
        return float(file["eval"][name][:, -1].mean())


@pytest.mark.parametrize("task", SETTINGS)
def test_show_has_a_row_for_each_metric(task: str, place: Path) -> None:
    text = call("show", place / task)
    lines = {line.split("   ")[0].strip(): line for line in text.splitlines()}
    for name in SHOWN[task]:
        assert f" {quantity(last(place, task, name))} " in lines[f"{name} after consensus"] + " "
    primary = [f"mean model {name} after consensus" for name in SHOWN[task][:1]]
    assert [label for label in lines if label.startswith("mean model")][-1:] == primary
    assert "loss after consensus" in lines
    labels = [label for label in lines if label.endswith("after consensus")]
    assert labels[: len(SHOWN[task])] == [f"{name} after consensus" for name in SHOWN[task]]


def test_show_has_the_test_at_the_best_validation_of_each_peer(place: Path) -> None:
    with h5py.File(place / "node-classification" / "run.h5", locking=False) as file:
        after = file["eval/phase"][0] == 1
        validation = file["eval/validation_accuracy"][:, after]
        tested = file["eval/accuracy"][:, after]
    best = [
        values[list(own).index(max(own))] for own, values in zip(validation, tested, strict=True)
    ]
    assert best != [values[-1] for values in tested]  # else the last evaluation would do
    text = call("show", place / "node-classification")
    lines = {line.split("   ")[0].strip(): line for line in text.splitlines()}
    line = lines["accuracy at best validation after consensus"]
    assert quantity(float(np.mean(best))) in line
    assert not any("best validation" in text for text in call("show", place / "binary").split("\n"))


@pytest.mark.parametrize("task", SETTINGS)
def test_watch_says_the_primary_metric(task: str, place: Path) -> None:
    primary = [*SHOWN[task], "loss"][0]
    value = quantity(last(place, task, primary))
    assert f"test {primary} {value}," in call("watch", place / task, "--once")


@pytest.mark.parametrize("task", SETTINGS)
def test_compare_with_itself_and_with_another_task(task: str, place: Path) -> None:
    primary = [*SHOWN[task], "loss"][0]
    value = quantity(last(place, task, primary))
    other = "regression" if task != "regression" else "language-model"
    for second, columns in ((task, [value, value]), (other, [value, "-"])):
        text = call("compare", place / task, place / second)
        (line,) = [x for x in text.splitlines() if x.startswith(f"{primary} after consensus")]
        if primary != "loss" or second == task:
            assert line.split()[3:5] == columns
    assert "final vectors have different shapes" in text


@pytest.mark.parametrize("task", SETTINGS)
def test_the_figure_of_a_run_is_about_its_primary_metric(task: str, place: Path) -> None:
    pytest.importorskip("matplotlib")
    from p2psim.analysis import plots

    axes = plots.draw([results.read(place / task)]).axes[0]
    primary = [*SHOWN[task], "loss"][0]
    assert axes.get_ylabel() == f"test {primary}"
    assert axes.get_yscale() == ("linear" if primary == "accuracy" else "log")
    _, after_consensus = axes.lines
    assert after_consensus.get_ydata()[-1] == pytest.approx(last(place, task, primary))


@pytest.mark.parametrize(
    ("tasks", "label"),
    [
        (("regression", "language-model"), "test loss"),
        (("classification", "regression", "least-squares"), "test loss"),
        (("classification", "binary"), "test accuracy"),
    ],
)
def test_runs_with_different_primary_metrics_are_compared_by_loss(
    tasks: tuple[str, ...], label: str, place: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    from p2psim.analysis import plots

    axes = plots.draw([results.read(place / task) for task in tasks]).axes[0]
    assert axes.get_ylabel() == label
    assert len(axes.lines) == 2 * len(tasks)
    call("plot", *(place / task for task in tasks), "--to", tmp_path / "figure.svg")
    assert f">{label}<" in (tmp_path / "figure.svg").read_text()


def recorded(place: Path, folder: Path, change: Callable[[h5py.File], None]) -> results.Run:
    """Return a copy of the regression run after a change of what its peers recorded."""
    copy = shutil.copytree(place / "regression", folder / "copy")
    for path in sorted((copy / "peers").glob("peer-*.h5")):
        with h5py.File(path, "r+", locking=False) as file:
            change(file)
    return results.read(copy)


@pytest.mark.parametrize("name", ["rmse", "loss", "mean_model_rmse"])
def test_a_target_of_a_metric_that_falls_is_reached_from_above(
    name: str, place: Path, tmp_path: Path
) -> None:
    def change(file: h5py.File) -> None:
        file["eval"][name][:] = [9, 9, 8, 0.5, 8, 0.7]  # evaluated after rounds 2, 4 and 6

    run = recorded(place, tmp_path, change)
    assert [metrics.rounds_to(run, target, name) for target in (9, 0.6, 0.4)] == [2, 4, None]


def test_few_values_have_several_labels(place: Path, tmp_path: Path) -> None:
    """From 7 to 12, the labels 1, 2 and 5 of each power of ten would be the 10 alone."""
    pytest.importorskip("matplotlib")
    from p2psim.analysis import plots

    def change(file: h5py.File) -> None:
        file["eval/rmse"][:] = [12, 12, 9, 9, 7, 7]

    axes = plots.draw([recorded(place, tmp_path, change)]).axes[0]
    low, high = axes.get_ylim()
    shown = [tick for tick in axes.yaxis.get_majorticklocs() if low <= tick <= high]
    assert shown == [7, 8, 9, 10]
