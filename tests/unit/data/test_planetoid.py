"""Citation graphs: a small one by hand, broken files, Cora and CiteSeer where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim.errors import InputError
from tests.support.datasets import open_data
from tests.support.graphs import CLASSES, FEATURES, NODES, TEST, TRAIN, VALIDATION, SmallGraph

REAL = os.environ.get("P2PSIM_DATA", "")


def dense(context: Any) -> Any:
    """Return the features of all nodes as a dense matrix."""
    x = np.zeros((len(context["feature_starts"]) - 1, int(context["feature_width"])))
    for row, (start, stop) in enumerate(
        zip(context["feature_starts"][:-1], context["feature_starts"][1:], strict=True)
    ):
        x[row, context["feature_columns"][start:stop]] = context["feature_values"][start:stop]
    return x


def test_the_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    graph = SmallGraph()
    data = open_data("planetoid", tmp_path, graph=graph.write(tmp_path), normalized=False)
    assert (data.shape, data.outputs, data.classes, data.vocabulary) == ((), 3, CLASSES, NODES)
    context = data.spec().context
    assert np.array_equal(dense(context), graph.features)
    assert {(i, j) for j, i in context["edges"].T} == set(graph.edges)
    nodes, classes = data.train(np.array([4, 0]))
    assert (nodes.tolist(), classes.tolist()) == ([4, 0], graph.classes[[4, 0]].tolist())
    for part, first, count in (
        (data.validation_samples(), TRAIN, VALIDATION),
        (data.test(), TRAIN + VALIDATION, TEST),
    ):
        assert part[0].tolist() == list(range(first, first + count))
        assert part[1].tolist() == graph.classes[part[0]].tolist()
    assert data.labels().tolist() == graph.classes[:TRAIN].tolist()


def test_rows_of_features_are_divided_by_their_sums(tmp_path: Path) -> None:
    graph = SmallGraph()
    data = open_data("planetoid", tmp_path, graph=graph.write(tmp_path))
    expected = graph.features / graph.features.sum(axis=1, keepdims=True)
    assert np.abs(dense(data.context) - expected).max() <= 1e-7


def test_a_node_that_the_files_leave_out_has_no_features(tmp_path: Path) -> None:
    """CiteSeer's test nodes have gaps in their numbers."""
    graph = SmallGraph()
    order = np.where(graph.test == NODES - 1, NODES + 1, graph.test)
    data = open_data("planetoid", tmp_path, graph=graph.write(tmp_path, test=order))
    x = dense(data.context)
    assert x.shape == (NODES + 2, FEATURES)
    assert not x[[NODES - 1, NODES]].any()
    assert x[NODES + 1].any()
    assert data.test()[0].tolist() == sorted(order.tolist())


def test_folds_are_a_fifth_and_a_fifth_and_the_rest_of_each_class(tmp_path: Path) -> None:
    data = open_data("planetoid", tmp_path, graph=SmallGraph().write(tmp_path), split="folds")
    parts = [data.train(np.arange(len(data.labels()))), data.validation_samples(), data.test()]
    assert sorted(np.concatenate([nodes for nodes, _ in parts])) == list(range(NODES))
    sizes = [np.bincount(classes).tolist() for _, classes in parts]
    assert sizes == [[3] * 3, [3] * 3, [6] * 3]


def link_data(folder: Path, **parameters: Any) -> Any:
    return open_data("planetoid-links", folder, graph=SmallGraph().write(folder), **parameters)


def test_links_are_split_and_paired_with_nodes_without_an_edge(tmp_path: Path) -> None:
    data = link_data(tmp_path)
    linked = {frozenset(edge) for edge in SmallGraph().edges}
    parts = [data.train(np.arange(len(data.labels()))), data.validation_samples(), data.test()]
    m = len(linked)
    assert [len(samples) for samples, _ in parts] == [
        m - int(0.05 * m) - int(0.1 * m),
        int(0.05 * m),
        int(0.1 * m),
    ]
    edges = [frozenset(pair) for samples, _ in parts for pair in samples[:, 0].tolist()]
    assert set(edges) == linked
    assert len(edges) == m
    trained = {frozenset(pair) for pair in parts[0][0][:, 0].tolist()}
    assert {frozenset(pair) for pair in data.context["edges"].T.tolist()} == trained
    for samples, targets in parts[1:]:
        absent = {frozenset(pair) for pair in samples[:, 1].tolist()}
        assert not absent & linked
        assert all(len(pair) == 2 for pair in absent)
        assert targets.tolist() == [1] * len(samples)


def test_pairs_are_drawn_anew_from_the_generator_of_the_step(tmp_path: Path) -> None:
    import torch

    data = link_data(tmp_path)
    samples = torch.from_numpy(data.train(np.arange(20))[0])
    one, same, other = (data.augment(samples, np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(one[:, 0], samples[:, 0])
    trained = {frozenset(pair) for pair in data.context["edges"].T.tolist()}
    assert not {frozenset(pair) for pair in one[:, 1].tolist()} & trained


def test_another_seed_splits_the_links_anew(tmp_path: Path) -> None:
    one, other = (link_data(tmp_path, split_seed=seed).test()[0] for seed in (1, 2))
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": {0: [1, 99]}}, "an edge ends at node 99, but the nodes are 0 to 35"),
        ({"graph": {0: [-1]}}, "an edge ends at node -1, but"),
        ({"graph": [1, 2]}, "no table of adjacency lists"),
        ({"graph": {0: [1], 3: 5}}, "the neighbors of node 3 in its graph are no list"),
        ({"graph": {0: [1.5]}}, "a node of its graph is no whole number"),
        ({"ty": np.eye(3, dtype=np.int32)}, "tx and ty have different sizes, 15 and 3"),
        ({"test": [21] * 15}, "test.index names a node twice"),
        ({"test": range(15)}, "test.index names a node twice, or one of the nodes of allx"),
        ({"allx": np.eye(3)}, "its features are no sparse matrix"),
        ({"ally": np.arange(21)}, r"labels have the shape \(21,\) in place of"),
        ({"y": np.eye(3)[np.arange(21) % 3]}, "y has 21 training nodes, and allx 21"),
        ({"y": np.zeros((9, 3))}, "a row of y does not have a single 1, .*; correct the files ind"),
        ({"y": np.eye(3)[np.arange(9)[::-1] % 3]}, "the classes in y are not those of the first"),
        ({"graph": {0: [0]}}, "the graph has no edges"),
        ({"x": print}, "ind.small.x' cannot be used .*it asks for .*print, which is not data"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    name = SmallGraph().write(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        open_data("planetoid", tmp_path, graph=name)
    assert "\n" not in str(caught.value)


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*my\.x'; give cora, citeseer, pubmed"):
        open_data("planetoid", tmp_path, graph="my")


@pytest.mark.skipif(not REAL, reason="P2PSIM_DATA is not set")
@pytest.mark.parametrize(
    ("graph", "nodes", "edges", "features", "classes", "train", "empty"),
    [("cora", 2708, 5278, 1433, 7, 140, 0), ("citeseer", 3327, 4552, 3703, 6, 120, 15)],
)
def test_published_graphs(
    graph: str,
    nodes: int,
    edges: int,
    features: int,
    classes: int,
    train: int,
    empty: int,
    tmp_path: Path,
) -> None:
    data = open_data("planetoid", tmp_path, graph=graph)
    context = data.context
    assert (data.vocabulary, context["edges"].shape[1]) == (nodes, edges)
    assert (int(context["feature_width"]), data.classes) == (features, classes)
    assert int((np.diff(context["feature_starts"]) == 0).sum()) == empty
    assert np.bincount(data.labels()).tolist() == [20] * classes
    assert [len(data.labels()), len(data.validation_samples()[1])] == [train, 500]
    assert len(data.test()[1]) == 1000
