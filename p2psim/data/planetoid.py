"""Classes of the papers in citation graphs: Cora, CiteSeer, PubMed, or a graph of the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from p2psim import rng
from p2psim.base import Data, Indices
from p2psim.data.citation_graph import CitationGraph, read
from p2psim.registry import plugin

FOLDS = 5  # parts of split "folds": one to train, one to validate, three to test
SPLIT_SEED = 5  # of split "folds": the same parts for all seeds of experiments


@plugin("data", "planetoid", source="Yang, Cohen & Salakhutdinov 2016")
class Planetoid(Data):
    """Nodes of a citation graph with their classes; all peers hold the graph and all features.

    A sample is the number of a node. `graph`: "cora", "citeseer" or "pubmed" in
    `$P2PSIM_DATA/planetoid`, or "my/ind.web" for a user's own files my/ind.web.x, .y, .tx, .ty,
    .allx, .ally, .graph and .test.index in the same format.
    `normalized`: the features of a node are divided by their sum. Split "public" is the published
    one: 20 training nodes of each class, 500 validation nodes, 1000 test nodes. Split "folds" takes
    a fifth of each class for training, a fifth for validation and the rest for tests.
    """

    graph: str = "cora"
    normalized: bool = True
    split: Literal["public", "folds"] = "public"

    task = "node-classification"
    validates = True

    def open(self, folder: str) -> None:
        """Read the graph; InputError if a file is missing or damaged."""
        graph = read(self.graph, Path(folder))
        self.shape, self.outputs, self.classes = (), graph.classes, graph.classes
        self.vocabulary = graph.labels.size
        self.context = graph.context(self.normalized, graph.edges)
        self._labels = graph.labels
        parts = graph.train, graph.validation, graph.test
        self._train, self._validation, self._test = parts if self.split == "public" else fold(graph)

    def labels(self) -> Indices:
        return self._labels[self._train]

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._of(self._train[indices])

    def validation_samples(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._of(self._validation)

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._of(self._test)

    def _of(self, nodes: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return nodes, self._labels[nodes]


def fold(graph: CitationGraph) -> tuple[Indices, Indices, Indices]:
    """Return training, validation and test nodes: in every class 1, 1 and 3 of five parts."""
    generator = rng.generator(SPLIT_SEED, "planetoid")
    number = np.empty(graph.labels.size, np.int64)  # part of each node
    for label in range(graph.classes):
        members = generator.permutation(np.flatnonzero(graph.labels == label))
        number[members] = np.arange(members.size) % FOLDS
    train, validation = np.flatnonzero(number == 0), np.flatnonzero(number == 1)
    return train, validation, np.flatnonzero(number > 1)
