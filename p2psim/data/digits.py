"""Handwritten digits of 8 x 8 pixels, from the file that scikit-learn installs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from p2psim import rng
from p2psim.base import Count, Data, Indices
from p2psim.data.files import open_data_file, sklearn_file
from p2psim.errors import InputError
from p2psim.registry import plugin

# The split belongs to the data set, not to the experiment: runs with different seeds are evaluated
# on the same test samples.
SPLIT_SEED = 1797


@plugin("data", "digits", source="Alpaydin & Kaynak 1998 (UCI), test part, by scikit-learn")
class Digits(Data):
    """1797 gray images of 8 x 8 pixels (0..16) in 10 classes; a fixed 360 of them are the test set.

    `scaling`: "standard" gives every pixel mean 0 and variance 1 over the training samples (a
    constant pixel becomes 0); "unit" divides by 16. `test_samples`: size of the test set.
    """

    scaling: Literal["standard", "unit"] = "standard"
    test_samples: Count = 360

    shape = (1, 8, 8)
    outputs = 10
    classes = 10

    def open(self, folder: str) -> None:
        """Read the file (1797 x 65 bytes); InputError if it is missing or damaged."""
        table = read_table(*sklearn_file("digits", "digits.csv.gz"))
        if self.test_samples >= len(table):
            raise InputError(
                f"data.test_samples = {self.test_samples}: digits has {len(table)} samples; "
                f"give at most {len(table) - 1}"
            )
        order = rng.generator(SPLIT_SEED, "digits").permutation(len(table))
        self._test = table[order[: self.test_samples]]
        self._train = table[order[self.test_samples :]]
        self.scale, self.shift = self._scaling()

    def _scaling(self) -> tuple[Any, Any]:
        if self.scaling == "unit":
            return 1 / 16, 0.0
        pixels = self._train[:, :64].astype(np.float64)
        mean, std = pixels.mean(axis=0), pixels.std(axis=0)
        scale = np.divide(1.0, std, out=np.zeros(64), where=std > 0)
        shift = -mean * scale
        return (
            scale.reshape(self.shape).astype(np.float32),
            shift.reshape(self.shape).astype(np.float32),
        )

    def labels(self) -> Indices:
        return self._train[:, 64].astype(np.int64)

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._split_columns(self._train[indices])

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._split_columns(self._test)

    def _split_columns(self, rows: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
        return rows[:, :64].reshape(-1, *self.shape), rows[:, 64].astype(np.int64)


@functools.cache  # with --debug, all peers of a process read the file
def read_table(path: Path, cure: str) -> NDArray[np.uint8]:
    """Return all samples (1797, 65): 64 pixels row by row, followed by the class; read only."""
    with open_data_file(path, cure) as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.uint8)
        if table.shape != (1797, 65):
            raise ValueError(f"it holds a table of shape {table.shape} in place of (1797, 65)")
    table.flags.writeable = False
    return table
