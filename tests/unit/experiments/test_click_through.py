"""The experiment on the published rows of Criteo: how feedback rules compare with each other."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from p2psim.data.files import data_folder
from p2psim.experiment.sweep import combinations
from tests.support.runs import run_in_threads

FILE = Path(__file__).parents[3] / "experiments" / "dfa" / "small" / "criteo.toml"
SEEDS = 3


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_feedback_learns_as_much_as_backpropagation(tmp_path: Path) -> None:
    """Mean test AUC: dfa is within 0.02 of bp, and with dcn at least 0.03 above shallow."""
    if not (data_folder() / "criteo" / "dev.txt").is_file():
        pytest.skip("P2PSIM_DATA has no criteo/dev.txt")
    auc: dict[str, list[float]] = {}
    for name, table in combinations(tomllib.loads(FILE.read_text())):
        if table["seed"] < SEEDS:
            run = run_in_threads(table, tmp_path)
            case = name.partition("-")[2]
            auc.setdefault(case, []).append(float(run.eval["auc"][0, -1]))
    mean = {case: np.mean(values) for case, values in auc.items()}
    assert len(mean) == 11
    for model in ("deepfm", "dcn", "afn"):
        assert mean[f"{model}-dfa"] > mean[f"{model}-bp"] - 0.02
    assert mean["dcn-dfa"] > mean["dcn-shallow"] + 0.03
    assert mean["logistic-regression"] > 0.7
    assert min(mean.values()) > 0.6
