"""Seen and unseen classes, oscillation, rounds to a target: against counts and known answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from p2psim.analysis import metrics, results
from p2psim.errors import InputError
from p2psim.experiment import scenario
from p2psim.experiment.holdings import Holdings
from tests.support.programs import invoke
from tests.support.runs import Run, Table, quadratic_table, quadratics, run_in_threads

CLASSES = [[0, 1], [7, 8], [0, 7, 8]]


def experiment(**changes: Any) -> Table:
    table: Table = {
        "name": "metrics",
        "peers": 3,
        "rounds": 6,
        "data": {
            "name": "digits",
            "classes": [0, 1, 7, 8],
            "partition": {"name": "explicit", "classes": CLASSES},
            "batch_size": 16,
        },
        "model": {"name": "mlp", "hidden": [12]},
        "learning": {"local_steps": 4},
        "algorithm": "d-psgd",
        "topology": "complete",
        "eval": {"every": 1},
    }
    for section, values in changes.items():
        table[section] = {**table[section], **values}
    return table


def samples_of(classes: list[int] | None) -> np.ndarray[Any, Any]:
    """How many test samples of digits each class has, without those that are left out."""
    table = experiment()
    ready = scenario.load(table, Path())
    counts = np.bincount(ready.experiment.data.test()[1], minlength=10).astype(float)
    return counts if classes is None else counts * np.isin(np.arange(10), classes)


@pytest.mark.parametrize("classes", [None, [0, 1, 7, 8]])
def test_seen_and_unseen_are_shares_of_test_samples(
    classes: list[int] | None, tmp_path: Path
) -> None:
    table = experiment()
    table["data"].pop("classes")
    table["data"] |= {"classes": classes} if classes else {}
    run = run_in_threads(table, tmp_path)
    counts = samples_of(classes)
    for peer, held in enumerate(CLASSES):
        by_class = np.nan_to_num(run.eval["class_accuracy"][peer]) * counts
        seen = np.isin(np.arange(10), held)
        for name, part in (("seen", seen), ("unseen", ~seen), ("", seen | ~seen)):
            wanted = by_class[:, part].sum(axis=1) / counts[part].sum()
            got = run.eval[f"{name}_accuracy".lstrip("_")][peer]
            assert np.abs(got - wanted).max() <= 1e-12
    local = run.eval["seen_accuracy"] - run.eval["unseen_accuracy"]
    assert local[:, ::2].mean() > 0.1


def test_where_all_is_seen_nothing_is_unseen(tmp_path: Path) -> None:
    run = run_in_threads(experiment(data={"partition": {"name": "iid"}}), tmp_path)
    assert np.isnan(run.eval["unseen_accuracy"]).all()
    assert run.eval["seen_accuracy"].tolist() == run.eval["accuracy"].tolist()


def test_only_the_chosen_classes_are_used() -> None:
    ready = scenario.load(experiment(), Path())
    labels = ready.experiment.data.labels()
    for part, held in zip(ready.parts, CLASSES, strict=True):
        assert set(labels[part]) == set(held)
    assert sum(map(len, ready.parts)) == np.isin(labels, [0, 1, 7, 8]).sum()
    assert set(Holdings(ready).test[1]) == {0, 1, 7, 8}
    iid = scenario.load(experiment(data={"partition": {"name": "iid"}}), Path())
    assert all(set(labels[part]) == {0, 1, 7, 8} for part in iid.parts)


@pytest.mark.parametrize("classes", [[], [3, 11]])
def test_classes_that_are_not_there_are_refused(classes: list[int]) -> None:
    text = f"data.classes = {classes}: give some of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
    with pytest.raises(InputError, match=re.escape(text)):
        scenario.load(experiment(data={"classes": classes}), Path())


def test_a_problem_without_classes_has_none_to_choose(tmp_path: Path) -> None:
    table = quadratic_table(quadratics(3), tmp_path, "d-psgd")
    table["data"]["classes"] = [1]
    with pytest.raises(InputError, match=r"remove .* data.classes"):
        scenario.load(table, tmp_path)


def test_the_last_evaluation_is_on_all_samples(tmp_path: Path) -> None:
    part = run_in_threads(experiment(eval={"samples": 20}), tmp_path)
    whole = run_in_threads(experiment(), tmp_path)
    assert part.x.tobytes() == whole.x.tobytes()
    for name in ("loss", "accuracy", "class_accuracy", "mean_model_accuracy"):
        assert part.eval[name][:, -2:].tobytes() == whole.eval[name][:, -2:].tobytes()
        assert part.eval[name][:, :-2].tobytes() != whole.eval[name][:, :-2].tobytes()
    hits = part.eval["accuracy"][:, :-2] * 20
    assert np.abs(hits - hits.round()).max() <= 1e-9


def sawtooth(folder: Path) -> results.Run:
    """A run whose unseen accuracy is put by hand: 0.8 at consensus, lower after local."""
    run_in_threads(experiment(), folder)
    place = folder / "run-0"
    for rank, low in enumerate((0.2, 0.4, np.nan)):
        with h5py.File(place / f"peers/peer-{rank:05d}.h5", "r+") as file:
            values = np.full(12, 0.8 if rank < 2 else np.nan)
            values[::2] = low + 0.01 * np.arange(6)
            file["eval/unseen_accuracy"][:] = values
            late = 0.7 if rank < 2 else 0.2
            file["eval/accuracy"][:] = np.repeat([0.1, 0.3, 0.5 + 0.1 * rank, late, 0.6, 0.9], 2)
    return results.read(place)


def test_oscillation_is_rise_and_fall(tmp_path: Path) -> None:
    run = sawtooth(tmp_path)
    # Peers 0 and 1: 0.8 - (0.2 + 0.01 (r - 1)) and 0.8 - (0.4 + 0.01 (r - 1)); peer 2 has none.
    rise = {r: (0.6 + 0.4) / 2 - 0.01 * (r - 1) for r in range(1, 7)}
    assert metrics.oscillation(run, "unseen_accuracy").rise == pytest.approx(
        np.mean(list(rise.values()))
    )
    some = metrics.oscillation(run, "unseen_accuracy", first=3, last=5)
    assert some == pytest.approx((rise[4], rise[4]))
    # Before round 1 nothing was evaluated: its fall does not count.
    assert metrics.oscillation(run, "unseen_accuracy", last=2).fall == pytest.approx(rise[2])
    flat = metrics.oscillation(run, "accuracy", first=2, last=2)
    assert flat == pytest.approx(metrics.Oscillation(0.0, -0.2))


def test_every_peer_must_reach_the_target_once(tmp_path: Path) -> None:
    run = sawtooth(tmp_path)
    assert metrics.rounds_to(run, 0.5) == 3
    assert metrics.rounds_to(run, 0.55) == 4  # peer 0 has 0.5 in round 3
    assert metrics.rounds_to(run, 0.65) == 4  # peer 2 has 0.7 in round 3, and 0.2 in round 4
    assert metrics.rounds_to(run, 0.95) is None
    run.eval["accuracy"][1] = np.nan
    assert metrics.rounds_to(run, 0.5) is None


def test_a_model_that_has_diverged_does_not_count(tmp_path: Path) -> None:
    run = sawtooth(tmp_path)
    whole = metrics.oscillation(run, "unseen_accuracy")
    run.eval["loss"][0, 4:] = np.inf  # peer 0, from round 3 on
    some = metrics.oscillation(run, "unseen_accuracy")
    assert metrics.oscillation(run, "unseen_accuracy", last=2) == pytest.approx((0.495, 0.49))
    assert some.rise == pytest.approx((0.6 + 0.59 + sum(0.4 - 0.01 * r for r in range(6))) / 8)
    assert some != whole
    run.eval["loss"][:] = np.nan
    assert np.isnan(metrics.oscillation(run, "unseen_accuracy")).all()


def test_show_tells_seen_from_unseen(tmp_path: Path) -> None:
    def shown(run: Run, place: Path) -> str:
        assert run.x.size
        return invoke("show", place).output

    text = shown(run_in_threads(experiment(), tmp_path), tmp_path / "run-0")
    assert "unseen accuracy after local" in text
    assert "unseen accuracy: rise at consensus" in text
    table = experiment(data={"partition": {"name": "iid"}}, eval={"every": 2})
    text = shown(run_in_threads(table, tmp_path), tmp_path / "run-1")
    assert "seen accuracy" not in text
    assert "rise at consensus" not in text  # the fall is not known
    text = shown(
        run_in_threads(experiment(eval={"phases": ["local"]}), tmp_path), tmp_path / "run-2"
    )
    assert "rise" not in text
