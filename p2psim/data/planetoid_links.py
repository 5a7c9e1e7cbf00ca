"""Links between the papers of citation graphs, to be predicted from a part of the links."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from p2psim import rng
from p2psim.base import Data, Indices, Natural
from p2psim.data.citation_graph import read
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch

VALIDATION, TEST = 0.05, 0.1  # parts of the edges


@plugin("data", "planetoid-links", source="Kipf & Welling 2016; Yang, Cohen & Salakhutdinov 2016")
class PlanetoidLinks(Data):
    """Edges of a citation graph to predict, each with a random pair of nodes without an edge.

    A sample is [[i, j], [a, b]], the edge and the other pair. All peers hold the features and
    the graph of the training edges, and each its share of them to predict. In every step the pairs
    are drawn anew; those of the 5 % validation and 10 % test edges are fixed. `split_seed` draws
    the parts. `graph` and `normalized` are those of planetoid. The label of an edge, by which
    partitions split, is the class of its smaller node.
    """

    graph: str = "cora"
    normalized: bool = True
    split_seed: Natural = 1

    task = "link-prediction"
    validates = True
    shape = (2, 2)
    outputs = 2

    def open(self, folder: str) -> None:
        """Read the graph and split its edges; InputError if a file is missing or damaged."""
        graph = read(self.graph, Path(folder))
        generator = rng.generator(self.split_seed, "planetoid links")
        edges = graph.edges.T[generator.permutation(graph.edges.shape[1])]
        sizes = int(VALIDATION * len(edges)), int(TEST * len(edges))
        validation, test, train = np.split(edges, np.cumsum(sizes))
        self.vocabulary = graph.labels.size
        self.context = graph.context(self.normalized, train.T)
        self._labels: Indices = graph.labels[train.min(axis=1)]
        self._train, self._linked = train, keys(train, self.vocabulary)
        linked = keys(edges, self.vocabulary)
        absent = draw_absent(len(validation) + len(test), linked, self.vocabulary, generator)
        self._validation, self._test = (
            np.stack([part, pairs], axis=1)
            for part, pairs in zip((validation, test), np.split(absent, sizes[:1]), strict=True)
        )
        # Placeholders, so that samples are complete without `augment`.
        absent = draw_absent(len(train), self._linked, self.vocabulary, generator)
        self._train = np.stack([train, absent], axis=1)

    def labels(self) -> Indices:
        return self._labels

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return with_ones(self._train[indices])

    def validation_samples(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return with_ones(self._validation)

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return with_ones(self._test)

    def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Draw new pairs without an edge of the training graph."""
        import torch

        pairs = draw_absent(len(inputs), self._linked, self.vocabulary, rng)
        drawn = torch.from_numpy(pairs).to(inputs.device)
        return torch.stack([inputs[:, 0], drawn], dim=1)


def with_ones(samples: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return samples with their targets: the first pair of each is an edge, class 1."""
    return samples, np.ones(len(samples), np.int64)


def keys(pairs: NDArray[np.int64], nodes: int) -> NDArray[np.int64]:
    """Return a number for each pair (rows, 2), the same in both directions, sorted."""
    numbers: NDArray[np.int64] = np.sort(pairs.min(axis=1) * nodes + pairs.max(axis=1))
    return numbers


def draw_absent(
    count: int, linked: NDArray[np.int64], nodes: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` pairs of different nodes, (count, 2), that are not in the sorted keys `linked`.

    The pairs are independent, so that one may come twice.
    """
    pairs = np.empty((0, 2), np.int64)
    while len(pairs) < count:
        drawn = generator.integers(0, nodes, (count - len(pairs), 2))
        number = drawn.min(axis=1) * nodes + drawn.max(axis=1)
        place = np.minimum(np.searchsorted(linked, number), linked.size - 1)
        free = (linked[place] != number) & (drawn[:, 0] != drawn[:, 1])
        pairs = np.concatenate([pairs, drawn[free]])
    return pairs
