"""CIFAR-10, read from the published Python batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Count, Data, Indices
from p2psim.data import unpickle
from p2psim.data.augmentation import crop
from p2psim.data.files import FileSet, fetch_cure
from p2psim.errors import InputError
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch

TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"
PLACES = ("cifar10/cifar-10-batches-py", "cifar-10-batches-py")
FILES = FileSet("cifar10", PLACES, fetch_cure("cifar10"))
FRAME = 4  # black pixels that are added on each side before a random crop of 32 x 32
# Mean and standard deviation of red, green and blue, over the training pixels in 0..1.
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32).reshape(3, 1, 1)
STD = np.array([0.2470, 0.2435, 0.2616], np.float32).reshape(3, 1, 1)


@plugin("data", "cifar10", source="Krizhevsky 2009")
class CIFAR10(Data):
    """50,000 training and 10,000 test color images of 3 x 32 x 32 bytes in 10 classes.

    Models receive them standardized by channel. `augmentation`: training images are moved by up to
    4 pixels in both directions and half of them mirrored, at random.
    `train_samples`, `test_samples`: use only the first samples (the files are in random order).
    """

    augmentation: bool = True
    train_samples: Count | None = None
    test_samples: Count | None = None

    shape = (3, 32, 32)
    outputs = 10
    classes = 10
    scale = 1 / (255 * STD)
    shift = -MEAN / STD

    def open(self, folder: str) -> None:
        """Find the six files in the data folder; InputError if one is missing.

        Their content is checked when it is read.
        """
        self._paths = {name: FILES.find(name) for name in (*TRAIN, TEST)}
        self._labels: list[Indices] = []

    def labels(self) -> Indices:
        # The labels (400 kB) stay in memory: their counts also tell which batch holds a sample.
        while self._labels_missing():
            self._labels.append(read_labels(self._paths[TRAIN[len(self._labels)]]))
        return np.concatenate(self._labels)[: self.train_samples]

    def _labels_missing(self) -> bool:
        """Return whether the next batch holds labels of the first `train_samples` samples."""
        count = sum(map(len, self._labels))
        return len(self._labels) < len(TRAIN) and count < (self.train_samples or math.inf)

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        targets = self.labels()[indices]
        inputs = np.empty((indices.size, *self.shape), np.uint8)
        start = 0
        for name, labels in zip(TRAIN, self._labels, strict=False):
            in_batch = (indices >= start) & (indices < start + labels.size)
            if in_batch.any():
                inputs[in_batch] = read_images(self._paths[name], indices[in_batch] - start)
            start += labels.size
        return inputs, targets

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        images, labels = read_batch(self._paths[TEST])
        first = slice(self.test_samples)
        return images[first].reshape(-1, *self.shape), labels[first]

    def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Pad (batch, 3, 32, 32) images with 4 black pixels, crop at random and mirror half."""
        if not self.augmentation:
            return inputs
        return crop(inputs, rng, FRAME, self.shift)


# A batch takes 31 MB. The two functions below return copies of a part, so that its memory is
# released before the next batch is read.
def read_labels(path: Path) -> Indices:
    """Return the labels of one batch (rows,)."""
    return read_batch(path)[1]


def read_images(path: Path, indices: Indices) -> NDArray[np.uint8]:
    """Return the images at `indices` of one batch, in that order; (indices.size, 3, 32, 32)."""
    return read_batch(path)[0][indices].reshape(-1, 3, 32, 32)


def read_batch(path: Path) -> tuple[NDArray[np.uint8], Indices]:
    """Return images (rows, 3072) and labels (rows,) of a batch; InputError if it is damaged."""
    batch = unpickle.load(path, FILES.cure)
    try:
        # The published batches were pickled by Python 2, so their keys are bytes.
        data = np.asarray(batch.get(b"data", batch.get("data")))
        labels = np.asarray(batch.get(b"labels", batch.get("labels")))
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{str(path)!r} is not a batch of CIFAR-10; {FILES.cure}") from None
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise InputError(f"{str(path)!r} holds no images of 3 x 32 x 32 bytes; {FILES.cure}")
    valid = labels.dtype.kind == "i" and labels.shape == data.shape[:1] and labels.size > 0
    if not valid or labels.min() < 0 or labels.max() > 9:
        raise InputError(
            f"{str(path)!r} does not hold a label of 0 to 9 for every image; {FILES.cure}"
        )
    return data, labels.astype(np.int64)
