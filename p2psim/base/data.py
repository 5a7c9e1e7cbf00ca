"""Interfaces of data: data sets and their partition among the peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from p2psim.base.learning import DataSpec
from p2psim.base.types import Indices, Shape, Vector

if TYPE_CHECKING:
    import torch


class Data:
    """A data set. Peers read only the samples that they hold.

    Values are raw * scale + shift. `open` fills in the attributes.
    """

    task: str = "classification"  # the default; [learning] task chooses another
    shape: Shape  # of one sample
    outputs: int  # of the model
    classes: int = 0  # 0: targets are no classes
    vocabulary: int = 0  # of token ids; 0: entries are numbers
    scale: Any = 1.0  # a number, or an array that broadcasts over a sample
    shift: Any = 0.0

    def open(self, folder: str) -> None:
        """Find and check the files and fill in the attributes; relative paths are in `folder`."""

    def spec(self) -> DataSpec:
        """Return the facts that tasks and models need."""
        return DataSpec(self.shape, self.outputs, self.classes, self.vocabulary)

    def labels(self) -> Indices:
        """Return the label of every training sample, by which partitions split: its class, say."""
        raise NotImplementedError

    def parts(self, n: int) -> list[Indices] | None:
        """Return the split among n peers where the data fixes it (then `partition` is refused)."""
        return None

    def train(self, indices: Indices) -> tuple[Any, NDArray[Any]]:
        """Return raw inputs (len, *shape), or a dict of arrays, and targets of these samples."""
        raise NotImplementedError

    def test(self) -> tuple[Any, NDArray[Any]]:
        """Return raw inputs and targets of the whole test set."""
        raise NotImplementedError

    def initial(self, rank: int) -> Vector | None:
        """Return this peer's first x where the data fixes it."""
        return None

    def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return a training minibatch changed at random (crop, flip); values, not raw numbers."""
        return inputs


class Partition(Protocol):
    """The split of the training samples among the peers; every peer computes the same split."""

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices of each peer's samples; ValueError where the parameters do not fit."""
