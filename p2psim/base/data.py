"""Interfaces of data: data sets and their partition among the peers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from p2psim.base.learning import DataSpec
from p2psim.base.types import Indices, Shape, Vector

if TYPE_CHECKING:
    import torch


class Data:
    """A data set. `open` fills in the attributes; the model receives raw * scale + shift.

    A peer asks `train` for the samples that it holds, and for no others.
    """

    task: str = "classification"  # the default; [learning] task chooses another
    shape: Shape  # of one sample
    outputs: int  # number of outputs of a model for this data set
    classes: int = 0  # number of classes; 0 if the targets are numbers
    # Number of ids, or a list of numbers, one for each categorical field; 0: inputs are numbers.
    vocabulary: Any = 0
    context: Mapping[str, NDArray[Any]] = MappingProxyType({})  # arrays shared by all samples
    validates: bool = False  # there are validation samples
    split_by_class: bool = True  # `labels` gives the classes, where there are any
    scale: Any = 1.0  # a number, or an array that broadcasts over a sample
    shift: Any = 0.0

    def open(self, folder: str) -> None:
        """Find and check the files and fill in the attributes; InputError if one is unusable.

        Paths that the user gives start from `folder`, the folder of the experiment file.
        """

    def spec(self) -> DataSpec:
        """Return the facts that tasks and models need."""
        return DataSpec(self.shape, self.outputs, self.classes, self.vocabulary, self.context)

    def labels(self) -> Indices:
        """Return an integer for every training sample, by which a partition may split them.

        It is the class of the sample where there are classes, unless `split_by_class` is False.
        """
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

    def validation_samples(self) -> tuple[Any, NDArray[Any]]:
        """Return raw inputs and targets of the validation samples, where `validates` is True.

        They choose among models, and are neither trained on nor tested on.
        """
        raise NotImplementedError

    def initial(self, rank: int) -> Vector | None:
        """Return the initial vector x of a peer, or None if the model chooses it."""
        return None

    def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Change a training minibatch at random, after scale and shift; by default do nothing."""
        return inputs


class Partition(Protocol):
    """The split of the training samples among the peers; every peer computes the same split."""

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices of each peer's samples, shape (samples,) for each of n peers.

        ValueError if the parameters of the partition do not fit the labels or n.
        """
