"""Progression of diabetes in 442 patients, from the files that scikit-learn installs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2psim import rng
from p2psim.base import Count, Data, Indices
from p2psim.data.files import open_data_file, sklearn_file
from p2psim.errors import InputError
from p2psim.registry import plugin

SPLIT_SEED = 442  # of the test part: the same test samples for all seeds of experiments
SHAPES = {"diabetes_data_raw.csv.gz": (442, 10), "diabetes_target.csv.gz": (442,)}


@plugin("data", "diabetes", source="Efron, Hastie, Johnstone & Tibshirani 2004, by scikit-learn")
class Diabetes(Data):
    """10 measurements of 442 patients, and the progression of the disease one year later.

    Measurements and target have mean 0 and variance 1 over the training samples, so that errors
    are in standard deviations of the target. A fixed `test_samples` of the patients are the test
    set. The label that partitions split by is the quarter of the target, 0 (the smallest) to 3.
    """

    test_samples: Count = 88

    shape = (10,)
    outputs = 1
    task = "regression"

    def open(self, folder: str) -> None:
        """Read both files; InputError if one is missing or damaged."""
        table = np.column_stack([read_table(name) for name in SHAPES])
        if self.test_samples > len(table) - 2:
            raise InputError(
                f"data.test_samples = {self.test_samples}: diabetes has {len(table)} samples; "
                f"give at most {len(table) - 2}"
            )
        order = rng.generator(SPLIT_SEED, "diabetes").permutation(len(table))
        train = table[order[self.test_samples :]]
        standard = (table - train.mean(axis=0)) / train.std(axis=0)
        self._test, self._train = np.split(standard[order], [self.test_samples])

    def labels(self) -> Indices:
        targets = self._train[:, -1]
        return np.searchsorted(np.quantile(targets, (0.25, 0.5, 0.75)), targets).astype(np.int64)

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return split_columns(self._train[indices])

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return split_columns(self._test)


def split_columns(rows: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return measurements (rows, 10) and targets (rows,)."""
    return rows[:, :-1], rows[:, -1]


def read_table(name: str) -> NDArray[np.float64]:
    """Return the numbers of one of the files of SHAPES."""
    path, cure = sklearn_file("diabetes", name)
    with open_data_file(path, cure) as stream:
        table = np.loadtxt(stream)
        if table.shape != SHAPES[name]:
            raise ValueError(f"it holds a table of shape {table.shape} in place of {SHAPES[name]}")
    return table
