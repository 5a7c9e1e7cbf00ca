"""Images of random pixels, for benchmarks that need no published data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Count, Data, Indices
from p2psim.registry import plugin

CLASSES = 10


@plugin("data", "random-images")
class RandomImages(Data):
    """`samples` images of `channels` x `side` x `side` pixels from N(0, 1), in 10 classes."""

    channels: Count
    side: Count
    samples: Count = 256

    outputs = classes = CLASSES

    def open(self, folder: str) -> None:
        self.shape = (self.channels, self.side, self.side)
        random = np.random.default_rng(1)
        self.images = random.normal(size=(self.samples, *self.shape)).astype(np.float32)

    def labels(self) -> Indices:
        return np.arange(self.samples) % CLASSES

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.images[indices], self.labels()[indices]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.train(np.arange(CLASSES))
