"""Graphs, clicks and views that are damaged, or do not fit task, model or rule: exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.graphs import SmallGraph
from tests.support.programs import GOOD, Bench, Table, bench_in, invoke, with_changes, write
from tests.support.scenes import write_rendered

NODES: Table = {"data": {"name": "planetoid", "graph": "ind.small"}, "model": {"name": "gcn"}}
LINKS: Table = {"data": {"name": "planetoid-links", "graph": "ind.small"}, "model": {"name": "gae"}}
CLICKS: Table = {
    "data": {"name": "criteo", "file": "clicks.txt", "min_count": 2},
    "model": {"name": "fm"},
}
SMALL = {"depth": 1, "width": 4, "coarse_samples": 2, "fine_samples": 0}
VIEWS: Table = {
    "data": {"name": "nerf-synthetic", "test_every": 1},
    "model": {"name": "nerf", **SMALL},
}
DFA: Table = {"learning": {"rule": "dfa"}}
CASES: dict[str, tuple[Table, tuple[str, ...]]] = {
    "nodes-for-a-model-of-numbers": (
        {**NODES, "model": {"name": "mlp"}},
        (
            "'planetoid' gives nodes of a graph",
            "'mlp' takes numbers",
            "cheb, dna, gat, gcn, spline,",
        ),
    ),
    "images-for-a-model-of-nodes": (
        {"model": {"name": "gcn"}},
        ("'digits' gives numbers", "'gcn' takes nodes of a graph"),
    ),
    "pairs-for-a-model-of-nodes": (
        {**LINKS, "model": {"name": "gcn"}},
        ("gives pairs of nodes", "'gcn' takes nodes of a graph", "the models gae,"),
    ),
    "nodes-for-a-model-of-pairs": (
        {**NODES, "model": {"name": "gae"}},
        ("gives nodes of a graph", "'gae' takes pairs of nodes"),
    ),
    "fields-for-a-model-of-texts": (
        {**CLICKS, "model": {"name": "transformer"}},
        ("'criteo' gives categorical fields", "'transformer' takes token ids", "afn, dcn, deepfm"),
    ),
    "nodes-without-a-graph": (
        {"learning.task": "node-classification"},
        ("'node-classification' needs", "'planetoid'", "another task"),
    ),
    "links-without-pairs": (
        {**NODES, "learning.task": "link-prediction"},
        ("'link-prediction' needs", "'planetoid-links'", "another task"),
    ),
    "clicks-without-fields": (
        {"learning.task": "click-through"},
        ("'click-through' needs categorical fields", "'criteo'", "another task"),
    ),
    "views-without-a-scene": (
        {"learning.task": "view-synthesis"},
        ("'view-synthesis' needs the views of a scene", "'nerf-synthetic'", "another task"),
    ),
    "a-text-of-rays": (
        {**VIEWS, "learning.task": "language-model"},
        ("'language-model' needs a data set of token ids", "another task"),
    ),
    "rays-for-a-model-of-images": (
        {**VIEWS, "model": {"name": "cnn"}},
        ("gives rays through a scene", "'cnn' takes numbers", "the models nerf,"),
    ),
    "images-for-a-model-of-rays": (
        {"model": {"name": "nerf", **SMALL}},
        ("'digits' gives numbers", "'nerf' takes rays through a scene"),
    ),
    "an-edge-out-of-range": (
        {**NODES, "data.graph": "ind.range"},
        ("an edge ends at node 99, but the nodes are 0 to 35",),
    ),
    "a-row-with-41-fields": (
        {**CLICKS, "data.file": "wide.txt"},
        ("line 2 has 41 fields in place of 40", "correct the file"),
    ),
    "a-scene-without-poses": (
        {**VIEWS, "data.scene": "empty"},
        ("there is no file", "transforms_train.json"),
    ),
    "no-feedback-points": (
        {**DFA, "model": {"name": "linear"}},
        ("the model has no feedback point", "put FeedbackPoint()"),
    ),
    "layers-that-shallow-does-not-share": (
        {"learning": {"rule": "shallow"}, "model": {"name": "mlp", "init": "own"}},
        ('model.init = "own"', "does not train all tensors", 'give model.init = "same"'),
    ),
    "unknown-tap": (
        {**NODES, "learning": {"rule": {"name": "dfa", "tap": "end"}}},
        ("learning.rule.tap = 'end'", "give 'nodes' or 'outputs'"),
    ),
    "eight-bits-on-a-graph": (
        {**NODES, "learning": {"precision": "int8"}},
        ("learning.precision = 'int8': model 'gcn' has no layer", "give 'fp32'"),
    ),
    "alignment-of-a-vector": (
        {"data": {"name": "diabetes"}, "model": {"name": "vector"}, "eval": {"alignment": 1}},
        ("eval.alignment: the model has no weights of two", "remove the key"),
    ),
}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Files of all kinds of data."""
    graph = SmallGraph()
    graph.write(tmp_path)
    for file in list(tmp_path.glob("ind.small.*")):
        (tmp_path / file.name.replace("small", "range")).write_bytes(file.read_bytes())
    changed = SmallGraph()
    folder = tmp_path / "changed"
    folder.mkdir()
    changed.write(folder, graph={0: [99]})
    (folder / "ind.small.graph").rename(tmp_path / "ind.range.graph")
    row = ["1", *["3"] * 13, *["a"] * 26]
    rows = [[str(k % 2), *row[1:]] for k in range(40)]
    (tmp_path / "clicks.txt").write_text("".join("\t".join(r) + "\n" for r in rows))
    (tmp_path / "wide.txt").write_text("\t".join(row) + "\n" + "\t".join([*row, "b"]) + "\n")
    write_rendered(tmp_path / "data" / "nerf_synthetic" / "lego", [0.0, 1.0, 2.0], size=(4, 4))
    return bench_in(tmp_path, monkeypatch)


@pytest.mark.parametrize("case", CASES)
def test_is_refused(case: str, bench: Bench) -> None:
    changes, fragments = CASES[case]
    write(bench.folder, with_changes(GOOD, changes))
    bench.check_refused(*fragments)


@pytest.mark.parametrize("changes", [NODES, LINKS, CLICKS, VIEWS])
def test_the_data_that_the_cases_start_from_fit(changes: Table, bench: Bench) -> None:
    write(bench.folder, with_changes(GOOD, changes))
    result = invoke("plan", bench.file)
    assert result.exit_code == 0, result.output
