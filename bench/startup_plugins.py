"""Plug-ins of bench/startup.py: data without a file, and peers that wait behind a barrier."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Algorithm, Data, Indices, Neighborhood, Oracle, Vector
from p2psim.registry import plugin

SAMPLES = 1000


@plugin("data", "blank")
class Blank(Data):
    """Black images of MNIST's size."""

    def open(self, folder: str) -> None:
        self.shape, self.outputs, self.classes = (28, 28), 10, 10

    def labels(self) -> Indices:
        return np.arange(SAMPLES) % 10

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.zeros((len(indices), 28, 28), np.uint8), self.labels()[indices]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.zeros((10, 28, 28), np.uint8), np.arange(10)


@plugin("algorithm", "arrived")
class Arrived(Algorithm):
    """Write the file arrived-RANK after the start barrier, and wait for the file `go`."""

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        folder = Path(__file__).parent
        (folder / f"arrived-{net.rank}").touch()
        while not (folder / "go").exists():
            time.sleep(0.2)
        return x
