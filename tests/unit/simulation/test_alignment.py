"""/alignment: cosines between the gradients of a learning rule and those of backpropagation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support.programs import invoke, write

TABLE: dict[str, Any] = {
    "peers": 2,
    "rounds": 6,
    "data": {"name": "digits", "batch_size": 16},
    "model": {"name": "mlp", "hidden": [8, 8], "activation": "tanh"},
    "learning": {"rule": "dfa", "optimizer": {"name": "sgd", "lr": 0.1}},
    "algorithm": "d-psgd",
    "topology": "complete",
    "eval": {"every": 1, "alignment": 3},
}


def recorded(folder: Path, name: str = "out", **learning: Any) -> dict[str, Any]:
    """The datasets of /alignment, and the final models, of a run."""
    table = {**TABLE, "learning": {**TABLE["learning"], **learning}}
    result = invoke("run", write(folder, table), "--out", folder / name, "--debug")
    assert result.exit_code == 0, result.output
    with h5py.File(folder / name / "run.h5") as file:
        return {**{key: v[()] for key, v in file["alignment"].items()}, "x": file["final/x"][()]}


def test_rows_are_those_of_every_third_evaluation(tmp_path: Path) -> None:
    rows = recorded(tmp_path)
    assert rows["round"].tolist() == [[1, 2, 4, 5]] * 2
    assert rows["phase"].tolist() == [[0, 1, 0, 1]] * 2
    assert rows["cosine"].shape == (2, 4, 3)
    assert np.all(np.abs(rows["cosine"]) <= 1 + 1e-12)
    # The gradient of the last layer is exact, those of the others are not.
    assert np.allclose(rows["cosine"][..., 2], 1, atol=1e-6)
    assert np.all(rows["cosine"][..., :2] < 0.99)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_backpropagation_is_aligned_with_itself(precision: str, tmp_path: Path) -> None:
    rows = recorded(tmp_path, rule="bp", precision=precision)
    least = 1 - 1e-6 if precision == "fp32" else 0.9  # gradients are rounded at random
    assert np.all(rows["cosine"] > least)


def test_only_trained_weights_have_a_cosine(tmp_path: Path) -> None:
    rows = recorded(tmp_path, rule="shallow")
    assert rows["cosine"].shape == (2, 4, 1)
    assert np.allclose(rows["cosine"], 1, atol=1e-6)
    assert rows["x"].shape == (2, 8 * 10 + 10)


def test_measuring_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = recorded(tmp_path)["x"]
    monkeypatch.setitem(TABLE, "eval", {"every": 1})
    result = invoke("run", write(tmp_path, TABLE), "--out", tmp_path / "plain", "--debug")
    assert result.exit_code == 0, result.output
    with h5py.File(tmp_path / "plain" / "run.h5") as file:
        assert "alignment" not in file
        assert file["final/x"][()].tobytes() == measured.tobytes()
