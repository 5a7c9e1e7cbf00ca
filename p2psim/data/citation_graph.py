"""Citation graphs in the eight Planetoid files, read without running code of the pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Indices
from p2psim.data import unpickle
from p2psim.data.files import FileSet, fetch_cure, find_file, open_data_file
from p2psim.errors import InputError

GRAPHS = ("cora", "citeseer", "pubmed")
FILES = FileSet("planetoid", ("planetoid", "Planetoid/raw"), fetch_cure("planetoid"))
MATRICES = ("scipy.sparse.csr.csr_matrix", "scipy.sparse._csr.csr_matrix")
VALIDATION = 500  # most validation nodes, which follow the training nodes


@dataclass(frozen=True)
class CitationGraph:
    """A graph whose nodes have features and a class; edges have no direction.

    Row i of the features has the entries values[starts[i]:starts[i + 1]] in the columns of the same
    places; all other entries are 0.
    """

    name: str
    edges: NDArray[np.int64]  # (2, m), each edge once, the smaller node first, no loops
    starts: NDArray[np.int64]  # (nodes + 1,)
    columns: NDArray[np.int64]
    values: NDArray[np.float32]
    width: int  # number of features
    labels: Indices  # class of each node, (nodes,)
    classes: int
    train: Indices  # nodes of the public split
    validation: Indices
    test: Indices

    def context(self, normalized: bool, edges: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the arrays that graph models need, with these edges.

        With `normalized`, each row of features is divided by its sum.
        """
        values = self.values
        if normalized:
            row = np.repeat(np.arange(self.labels.size), np.diff(self.starts))
            sums = np.bincount(row, self.values, self.labels.size)
            values = (self.values / sums[row]).astype(np.float32)
        return {
            "edges": edges,
            "feature_starts": self.starts,
            "feature_columns": self.columns,
            "feature_values": values,
            "feature_width": np.array(self.width),
        }


def read(graph: str, folder: Path) -> CitationGraph:
    """Read the graph of one of the names GRAPHS, or of files of the user `folder/graph.x` etc.

    InputError if a file is missing or damaged, or if the files do not fit each other.
    """
    parts = {name: load(graph, folder, name) for name in ("x", "y", "tx", "ty", "allx", "ally")}
    path = find(graph, folder, "test.index")
    with open_data_file(path, cure(graph)) as stream:
        lines = stream.read().split()
        if wrong := [line for line in lines if not line.isdigit()]:
            raise ValueError(f"it has the entry {wrong[0].decode(errors='replace')!r}, no number")
        test = np.array([int(line) for line in lines], np.int64)
    try:
        rows = {name: sparse_rows(parts[name]) for name in ("tx", "allx")}
        labels = {name: classes_of(name, parts[name]) for name in ("y", "ty", "ally")}
        known = rows["allx"].count
        nodes = known + int(test.max(initial=known - 1) - known + 1)
        check_sizes(rows, labels, test, nodes)
        place = np.concatenate([np.arange(known), test])
        starts, columns, values = ordered([rows["allx"], rows["tx"]], place, nodes)
        classes = np.zeros(nodes, np.int64)
        classes[place] = np.concatenate([labels["ally"], labels["ty"]])
        edges = edges_of(load(graph, folder, "graph"), nodes)
    except ValueError as error:
        raise InputError(f"data.graph = {graph!r}: {error}; {cure(graph)}") from None
    train = np.arange(labels["y"].size)
    return CitationGraph(
        name=graph,
        edges=edges,
        starts=starts,
        columns=columns,
        values=values,
        width=rows["allx"].width,
        labels=classes,
        classes=parts["ally"].shape[1],
        train=train,
        validation=np.arange(train.size, min(train.size + VALIDATION, rows["allx"].count)),
        test=np.sort(test),
    )


def find(graph: str, folder: Path, part: str) -> Path:
    """Return the path of one of the files of a graph; InputError if it is missing."""
    if graph in GRAPHS:
        return FILES.find(f"ind.{graph}.{part}")
    cure = f"give {', '.join(GRAPHS)}, or the common part of the files' paths, such as 'my/ind.web'"
    return find_file([folder / f"{graph}.{part}"], f"data.graph = {graph!r}", cure)


def load(graph: str, folder: Path, part: str) -> Any:
    """Return the content of one of the pickles of a graph."""
    return unpickle.load(find(graph, folder, part), cure(graph), MATRICES)


def cure(graph: str) -> str:
    """Return the advice for a damaged file of a graph."""
    return FILES.cure if graph in GRAPHS else f"correct the files {graph}.*"


@dataclass(frozen=True)
class Rows:
    """Rows of a sparse matrix of shape (count, width)."""

    count: int
    width: int
    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float32]


def sparse_rows(record: Any) -> Rows:
    """Return the matrix of a csr_matrix of SciPy; ValueError if it is no valid one."""
    if not isinstance(record, unpickle.Record):
        raise ValueError("its features are no sparse matrix")
    state = record.state
    (count, width), data = state["_shape"], np.asarray(state["data"])
    starts, columns = (np.asarray(state[name]).astype(np.int64) for name in ("indptr", "indices"))
    fits = starts.shape == (count + 1,) and columns.shape == data.shape == (starts[-1],)
    if not fits or starts[0] or (np.diff(starts) < 0).any() or outside(columns, width).any():
        raise ValueError("a matrix of features has entries outside of its shape")
    if not np.isfinite(data).all():
        raise ValueError("a feature is not finite")
    return Rows(count, width, starts, columns, data.astype(np.float32))


def outside(numbers: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Return True for each of the numbers that is not in 0 ... count - 1."""
    return (numbers < 0) | (numbers >= count)


def classes_of(name: str, array: Any) -> Indices:
    """Return the class of each row of one-hot labels.

    Outside of y, which training nodes have, a row of zeros is class 0.
    """
    labels = np.asarray(array)
    if labels.ndim != 2 or labels.dtype.kind not in "iufb":
        raise ValueError(f"its labels have the shape {labels.shape} in place of (nodes, classes)")
    if name == "y" and not (np.sort(labels, axis=1) == np.eye(labels.shape[1])[-1]).all():
        raise ValueError("a row of y does not have a single 1, at the class of a training node")
    classes: Indices = labels.argmax(axis=1)
    return classes


def check_sizes(
    rows: Mapping[str, Rows], labels: Mapping[str, Indices], test: Indices, nodes: int
) -> None:
    """Check that features, labels and test nodes are equally many; ValueError otherwise."""
    sizes = {
        "tx and ty": (rows["tx"].count, labels["ty"].size),
        "tx and test.index": (rows["tx"].count, test.size),
        "allx and ally": (rows["allx"].count, labels["ally"].size),
        "the features of tx and allx": (rows["tx"].width, rows["allx"].width),
    }
    for names, (one, two) in sizes.items():
        if one != two:
            raise ValueError(f"{names} have different sizes, {one} and {two}")
    described = rows["allx"].count + test.size
    if nodes > 2 * described:
        raise ValueError(
            f"test.index names node {nodes - 1}, but only {described} nodes have features"
        )
    if np.unique(test).size < test.size or test.min(initial=nodes) < rows["allx"].count:
        raise ValueError("test.index names a node twice, or one of the nodes of allx")
    if not np.array_equal(labels["y"], labels["ally"][: labels["y"].size]):
        raise ValueError("the classes in y are not those of the first nodes in ally")
    if not 0 < labels["y"].size < rows["allx"].count:
        raise ValueError(
            f"y has {labels['y'].size} training nodes, and allx {rows['allx'].count} nodes in all: "
            "none is left for validation"
        )


def ordered(
    parts: list[Rows], place: Indices, nodes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return starts, columns and values of all rows, row k of the parts at place[k].

    Places without a row are rows of zeros.
    """
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    columns = np.concatenate([part.columns for part in parts])
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(np.repeat(place, lengths), kind="stable")
    sizes = np.zeros(nodes, np.int64)
    sizes[place] = lengths
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return starts, columns[order], values[order]


def edges_of(lists: Any, nodes: int) -> NDArray[np.int64]:
    """Return the edges of adjacency lists {node: [nodes]}, (2, m); ValueError for unknown nodes."""
    if not isinstance(lists, dict):
        raise ValueError("its graph is no table of adjacency lists")
    for node, others in lists.items():
        if not isinstance(others, list | tuple):
            raise ValueError(f"the neighbors of node {node} in its graph are no list")
    pairs = [(node, other) for node, others in lists.items() for other in others]
    ends = np.array(pairs or np.zeros((0, 2), np.int64))
    if ends.ndim != 2 or ends.dtype.kind not in "iu":
        raise ValueError("a node of its graph is no whole number")
    wrong = ends[outside(ends, nodes)]
    if wrong.size:
        raise ValueError(f"an edge ends at node {wrong[0]}, but the nodes are 0 to {nodes - 1}")
    return undirected(ends.T)


def undirected(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each edge once, without loops and with the smaller node first, (2, m), sorted."""
    ends = np.sort(ends[:, ends[0] != ends[1]], axis=0)
    if not ends.size:
        raise ValueError("the graph has no edges")
    unique: NDArray[np.int64] = np.unique(ends, axis=1)
    return unique
