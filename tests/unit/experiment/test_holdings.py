"""Samples of a data set whose inputs are a dict of arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p2psim.experiment import scenario
from p2psim.experiment.holdings import Holdings

PLUGIN = """
import numpy as np
from p2psim.base import Data
from p2psim.registry import plugin

@plugin("data", "two")
class Two(Data):
    def open(self, folder):
        self.x = np.arange(90 * 6, dtype=np.float32).reshape(90, 6)
        self.y = np.arange(90) % 3
        self.shape, self.outputs, self.classes = (6,), 3, 3

    def labels(self):
        return self.y[:60]

    def part(self, rows):
        return {"left": self.x[rows, :4], "right": self.x[rows, 4:]}, self.y[rows]

    def train(self, indices):
        return self.part(indices)

    def test(self):
        return self.part(slice(60, 90))
"""


def holdings(folder: Path) -> Holdings:
    """The samples of two of three classes, anew from the experiment."""
    (folder / "two.py").write_text(PLUGIN)
    table = {
        "name": "two",
        "peers": 3,
        "rounds": 1,
        "data": {"name": "two.py:Two", "classes": [0, 2]},
        "model": "linear",
        "algorithm": "d-psgd",
        "topology": "ring",
    }
    return Holdings(scenario.load(table, folder))


def test_all_peers_at_once_have_the_same_columns_as_each_alone(tmp_path: Path) -> None:
    alone, together = holdings(tmp_path), holdings(tmp_path)
    together.check()
    together.read_all()
    for rank in range(3):
        (inputs, targets), (shared, others) = alone.train(rank), together.train(rank)
        assert {*inputs} == {*shared} == {"left", "right"}
        assert np.array_equal(inputs["left"], shared["left"])
        assert np.array_equal(inputs["right"], shared["right"])
        assert np.array_equal(targets, others)
        assert alone.fingerprint(rank) == together.fingerprint(rank)
    assert len({alone.fingerprint(rank) for rank in range(3)}) == 3


@pytest.mark.parametrize("column", ["left", "right"])
def test_the_test_set_has_the_classes_of_the_experiment(column: str, tmp_path: Path) -> None:
    inputs, targets = holdings(tmp_path).test
    assert {*targets} == {0, 2}
    assert len(inputs[column]) == len(targets) == 20
