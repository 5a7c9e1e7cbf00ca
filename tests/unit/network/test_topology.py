from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from p2psim.errors import InputError
from p2psim.network import mixing, topology
from p2psim.network.mixing import Matrix
from p2psim.network.topology import Topology
from p2psim.registry import load_file

FOLDER = Path(topology.__file__).parents[2] / "topologies"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 16)
# What a graph with its default parameters refuses; everything else must work.
REFUSED = {
    "torus": {5, 7},
    "helical": {3, 4},
    "hypercube": {3, 5, 7, 12},
    "random-regular": {1, 2, 3, 5, 7},
    "watts-strogatz": {1, 2, 3, 4},
    "barabasi-albert": {1, 2},
}
DOUBLY = {"row-stochastic", "column-stochastic", "doubly-stochastic"}


def make(spec: dict[str, Any], n: int, folder: Path = Path(), **more: Any) -> Topology:
    return topology.build(spec, n, more.get("seed", 1), folder, more.get("samples", [1] * n))


def refusal(spec: dict[str, Any], n: int, folder: Path = Path(), **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        make(spec, n, folder, **more)
    return str(caught.value)


def write(folder: Path, name: str, text: str) -> dict[str, Any]:
    (folder / name).write_text(text)
    return {"file": name}


GAPS = {  # algorithms.md section 1; one period of the last averages exactly
    "directed-ring": {4: 0.29289, 8: 0.07612, 16: 0.01921},
    "ring": {8: 0.19526, 16: 0.05075, 32: 0.01281},
    "torus": {8: 0.5, 16: 0.4},
    "helical": {16: 0.4},
    "complete": {7: 1.0},
    "one-peer-exponential": {16: 1.0},
}


@pytest.mark.parametrize(("name", "n"), [(name, n) for name in GAPS for n in GAPS[name]])
def test_spectral_gap(name: str, n: int) -> None:
    assert make({"name": name}, n).spectral_gap() == pytest.approx(GAPS[name][n], abs=5e-6)


@pytest.mark.parametrize("n", [2, 4, 6, 10, 16])
def test_gap_of_exponential_graph(n: int) -> None:
    # Ying et al. 2021, proposition 1: 2 / (1 + ceil(log2 n)) for even n.
    gap = make({"name": "exponential"}, n).spectral_gap()
    assert gap == pytest.approx(2 / (1 + math.ceil(math.log2(n))), abs=1e-12)


def test_gap_is_the_contraction_of_the_ring() -> None:
    W = make({"name": "ring"}, 8).at(0)
    x = np.random.default_rng(0).normal(size=8)
    x -= x.mean()
    for _ in range(40):  # the ratio per step tends to |lambda_2|
        x = W @ x
        ratio = np.linalg.norm(x)
        x = x / ratio
    assert ratio == pytest.approx(0.804737854, abs=1e-9)
    assert 1 - ratio == pytest.approx(make({"name": "ring"}, 8).spectral_gap(), abs=1e-12)


def test_gap_without_double_stochasticity_is_by_eigenvalue() -> None:
    # Star, uniform-neighbor: W = [[1/n ...], [1/2, 1/2 on the diagonal]], lambda_2 = 1/2.
    built = make({"name": "star", "weights": "uniform-neighbor"}, 6)
    assert "doubly-stochastic" not in built.properties
    assert built.spectral_gap() == pytest.approx(0.5, abs=1e-12)


def test_gap_over_a_period(tmp_path: Path) -> None:
    text = "import networkx as nx\ndef graph(n):\n    return "
    orders = "[nx.cycle_graph(x, nx.DiGraph) for x in ([0,1,2,3,4], [0,1,2,4,3], [0,1,3,2,4])]"
    built = make(write(tmp_path, "a.py", text + orders), 5, tmp_path)
    product = built.at(2) @ built.at(1) @ built.at(0)  # the cycles do not commute
    norm = np.linalg.svd(product - 1 / 5)[1][0]
    assert built.spectral_gap() == pytest.approx(1 - norm ** (1 / 3), abs=1e-12)
    lines = "[nx.Graph([(i, 3*(i//3)+(i+1)%3) for i in range(9)]), nx.circulant_graph(9, [3])]"
    assert make(write(tmp_path, "b.py", text + lines), 9, tmp_path).spectral_gap() == 1


def cases(refused: bool) -> list[tuple[str, int]]:
    return [(x, n) for x in NAMES for n in SIZES if (n in REFUSED.get(x, ())) == refused]


@pytest.mark.parametrize(("name", "n"), cases(refused=False))
def test_laws(name: str, n: int) -> None:
    built = make({"name": name}, n)
    W = built.weights
    assert W.shape == (built.period, n, n)
    assert W.dtype == np.float64
    assert (W >= 0).all()
    assert (W[:, range(n), range(n)] > 0).all()
    assert (built.properties >= DOUBLY | {"symmetric"}) or built.directed
    assert "column-stochastic" in built.properties
    assert built.rule == ("out-degree" if built.directed else "metropolis")
    assert 0 < built.spectral_gap() <= 1
    np.testing.assert_array_equal(W, make({"name": name}, n).weights)
    assert nx.is_strongly_connected(nx.DiGraph([(int(j), int(i)) for _, i, j in np.argwhere(W)]))
    made = load_file(FOLDER / f"{name}.py").graph
    steps = made(n, seed=1) if "seed" in made.__annotations__ else made(n)
    steps = steps if isinstance(steps, list) else [steps]
    assert built.period == len(steps)
    for t in range(built.period + 1):
        graph = steps[t % len(steps)]
        assert sorted(graph) == list(range(n))
        for i in range(n):
            assert built.senders(i, t) == [j for j in range(n) if graph.has_edge(j, i)]
            assert built.receivers(i, t) == [j for j in range(n) if graph.has_edge(i, j)]
            assert built.at(t)[i].nonzero()[0].tolist() == sorted([*built.senders(i, t), i])


@pytest.mark.parametrize(("name", "n"), cases(refused=True))
def test_impossible_sizes_are_refused(name: str, n: int) -> None:
    message = refusal({"name": name}, n)
    assert message.startswith("topology: ")
    assert f"peers = {n}" in message


def degrees(spec: dict[str, Any], n: int) -> list[int]:
    built = make(spec, n)
    return [len(built.receivers(i)) for i in range(n)]


def test_shapes() -> None:
    assert degrees({"name": "path"}, 5) == [1, 2, 2, 2, 1]
    assert degrees({"name": "star"}, 5) == [4, 1, 1, 1, 1]
    assert degrees({"name": "binary-tree"}, 7) == [2, 3, 3, 1, 1, 1, 1]
    assert degrees({"name": "torus"}, 8) == [3] * 8
    assert degrees({"name": "torus", "rows": 3}, 9) == [4] * 9
    assert degrees({"name": "hypercube"}, 16) == [4] * 16
    assert degrees({"name": "exponential"}, 16) == [4] * 16
    assert degrees({"name": "random-regular", "degree": 5}, 12) == [5] * 12
    assert sum(degrees({"name": "watts-strogatz", "k": 6, "p": 0.5}, 20)) == 6 * 20
    assert sum(degrees({"name": "barabasi-albert", "m": 3}, 20)) == 2 * (3 + 16 * 3)
    assert make({"name": "ring"}, 8).senders(0) == [1, 7]
    assert make({"name": "directed-ring"}, 8).senders(0) == [7]
    assert make({"name": "helical"}, 16).senders(0) == [1, 4, 12, 15]
    assert make({"name": "torus"}, 12).senders(0) == [1, 3, 4, 8]  # 3 x 4
    built = make({"name": "one-peer-exponential"}, 8)
    assert [built.receivers(6, t) for t in range(4)] == [[7], [0], [2], [7]]


def test_edges_and_diameter() -> None:
    for name, n, edges, diameter in (
        ("ring", 8, 8, 4),
        ("directed-ring", 8, 8, 7),
        ("complete", 6, 15, 1),
        ("hypercube", 16, 32, 4),
        ("one-peer-exponential", 8, 24, 3),
        ("ring", 1, 0, 0),
    ):
        built = make({"name": name}, n)
        assert (built.edges, built.diameter()) == (edges, diameter), name


def test_seed_is_the_experiments_unless_given() -> None:
    for name in ("erdos-renyi", "random-directed", "random-regular", "watts-strogatz"):
        one, two = make({"name": name}, 16, seed=1), make({"name": name}, 16, seed=2)
        assert (one.weights != two.weights).any(), name
        given = make({"name": name, "seed": 2}, 16, seed=1)
        np.testing.assert_array_equal(given.weights, two.weights)
    assert make({"name": "random-directed"}, 16).properties == {"column-stochastic", "static"}


def entry(rule: str, i: int, j: int, near: list[int], degree: Any, samples: list[int]) -> Any:
    n = len(samples)
    values = {
        "metropolis": 1 / (1 + max(degree(i), degree(j))),
        "lazy": 0.5 / (1 + max(degree(i), degree(j))),
        "max-degree": 1 / (1 + max(degree(k) for k in range(n))),
        "uniform-neighbor": 1 / (len(near) + 1),
        "out-degree": 1 / (degree(j) + 1),
        "data-size": samples[j] / (samples[i] + sum(samples[k] for k in near)),
    }
    return values[rule]


def formula(rule: str, graph: Any, samples: list[int]) -> Matrix:
    W = np.zeros((len(graph), len(graph)))
    for i in graph:
        near = list(graph.predecessors(i) if graph.is_directed() else graph.neighbors(i))
        degree = graph.out_degree if graph.is_directed() else graph.degree
        for j in near:
            W[i, j] = entry(rule, i, j, near, degree, samples)
        W[i, i] = 1 / (degree(i) + 1) if rule == "out-degree" else 1 - W[i].sum()
    return W


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rule", sorted(set(mixing.RULES) - {"edges"}))
def test_rules(rule: str, seed: int) -> None:
    directed = rule not in mixing.UNDIRECTED and seed % 2 == 0
    name = "random-directed" if directed else "erdos-renyi"
    samples = random.Random(seed).sample(range(1, 50), 11)
    built = make({"name": name, "weights": rule}, 11, seed=seed, samples=samples)
    graph = load_file(FOLDER / f"{name}.py").graph(11, seed=seed)
    np.testing.assert_allclose(built.at(0), formula(rule, graph, samples), atol=1e-14)
    kept = "column-stochastic" if rule == "out-degree" else "row-stochastic"
    assert kept in built.properties
    assert (built.properties >= DOUBLY | {"symmetric"}) == (rule in mixing.UNDIRECTED)
    assert built.rule == rule


def test_data_size_limit() -> None:
    # algorithms.md section 5: the consensus limit is pi_k prop. to n_k s_k, s_k = n_k + sum_N(k) n.
    samples = [3, 50, 7, 20, 1, 9, 14, 30]
    built = make({"name": "ring", "weights": "data-size"}, 8, samples=samples)
    s = [samples[k] + samples[k - 1] + samples[(k + 1) % 8] for k in range(8)]
    pi = np.array([a * b for a, b in zip(samples, s, strict=True)], float)
    limit = np.linalg.matrix_power(built.at(0), 4000)
    np.testing.assert_allclose(limit, np.tile(pi / pi.sum(), (8, 1)), atol=1e-12)
    fedavg = make({"name": "complete", "weights": "data-size"}, 8, samples=samples).at(0)
    np.testing.assert_allclose(fedavg, np.tile(np.array(samples) / sum(samples), (8, 1)))


def test_edge_list(tmp_path: Path) -> None:
    spec = write(tmp_path, "mine.edgelist", "# a path\n0 1 0.25\n\n1 2 .5  # strong\n")
    built = make(spec | {"weights": "edges"}, 3, tmp_path)
    expected = np.array([[0.75, 0.25, 0], [0.25, 0.25, 0.5], [0, 0.5, 0.5]])
    np.testing.assert_allclose(built.at(0), expected)
    assert (built.name, built.directed, built.edges) == ("mine.edgelist", False, 2)
    assert built.properties == DOUBLY | {"symmetric", "static"}
    assert make(spec, 3, tmp_path).rule == "metropolis"
    full = write(tmp_path, "b.edgelist", "0 1 .01\n0 2 .14\n0 3 .17\n0 4 .34\n0 5 .34\n")
    assert make(full | {"weights": "edges"}, 6, tmp_path).at(0)[0, 0] == 0  # not -2e-16


def test_edge_list_of_one_way_lines(tmp_path: Path) -> None:
    text = "0 1 0.25\n1 0 0.125\n1 2 1\n2 0 0.5"
    built = make(write(tmp_path, "a.edgelist", text) | {"weights": "edges"}, 3, tmp_path)
    expected = np.array([[0.375, 0.125, 0.5], [0.25, 0.75, 0], [0, 1, 0]])
    np.testing.assert_array_equal(built.at(0), expected)
    assert built.properties == {"row-stochastic", "static"}


def test_edge_list_direction(tmp_path: Path) -> None:
    spec = write(tmp_path, "a.edgelist", "0 1\n1 2\n2 0\n")
    assert not make(spec, 3, tmp_path).directed
    built = make(spec | {"directed": True}, 3, tmp_path)
    assert built.directed
    assert built.senders(1) == [0]
    both = write(tmp_path, "b.edgelist", "0 1\n1 2\n2 0\n1 0")
    assert make(both, 3, tmp_path).receivers(2) == [0]
    assert not make(both | {"directed": False}, 3, tmp_path).directed


def test_edges_by_column(tmp_path: Path) -> None:
    text = "0 0 0.5\n0 1 0.5\n1 1 0.25\n1 2 0.5\n1 0 0.25\n2 2 0\n2 0 1\n"
    built = make(write(tmp_path, "a.edgelist", text) | {"weights": "edges"}, 3, tmp_path)
    np.testing.assert_array_equal(built.at(0), [[0.5, 0.25, 1], [0.5, 0.25, 0], [0, 0.5, 0]])
    assert built.properties == {"column-stochastic", "static"}


def test_graphml(tmp_path: Path) -> None:
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([("n10", "n2", 0.5), ("n2", "n1", 0.25), ("n1", "n10", 1.0)])
    nx.write_graphml(graph, tmp_path / "g.graphml")
    built = make({"file": "g.graphml", "weights": "edges"}, 3, tmp_path)  # n1, n2, n10
    expected = np.array([[0.75, 0.25, 0], [0, 0.5, 0.5], [1, 0, 0]])
    np.testing.assert_array_equal(built.at(0), expected)
    assert built.directed
    nx.write_graphml(nx.path_graph(12), tmp_path / "p.graphml")
    built = make({"file": "p.graphml"}, 12, tmp_path)
    np.testing.assert_array_equal(built.weights, make({"name": "path"}, 12).weights)


OWN = """
import networkx as nx
def graph(n: int, spokes: int, flip: bool = False) -> list[nx.DiGraph]:
    if spokes > n:
        raise ValueError("too many spokes")
    if flip:
        return [1 / 0]
    return [nx.DiGraph([(i, (i + k) % n) for i in range(n)]) for k in range(1, spokes + 1)]
"""


def test_python_file(tmp_path: Path) -> None:
    spec = write(tmp_path, "own.py", OWN)
    built = make(spec | {"spokes": 2}, 5, tmp_path)
    assert (built.name, built.period, built.senders(0, 3)) == ("own.py", 2, [3])
    assert "topology.spokes: the graph needs" in refusal(spec, 5, tmp_path)
    assert refusal(spec | {"spokes": 9}, 5, tmp_path) == "topology: too many spokes"
    assert "ZeroDivisionError" in refusal(spec | {"spokes": 2, "flip": True}, 5, tmp_path)
    assert "defines no graph" in refusal(write(tmp_path, "b.py", "x = 1"), 5, tmp_path)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "either a name"),
        ({"name": "ring", "file": "a.edgelist"}, "either a name"),
        ({"name": "rign"}, "topology.name: unknown topology 'rign'; did you mean 'ring'?"),
        ({"name": ["ring"]}, "topology.name"),
        ({"name": "ring", "weights": "metropolos"}, "did you mean 'metropolis'?"),
        ({"name": "ring", "weights": ["metropolis"]}, "topology.weights"),
        ({"name": "random-regular", "degre": 3}, "topology.degre: unknown parameter; did you mean"),
        ({"name": "random-regular", "degree": "3"}, "topology.degree = '3': Expected `int`"),
        ({"name": "erdos-renyi", "p": True}, "topology.p = true: Expected `float`"),
        ({"name": "erdos-renyi", "p": 0}, "topology: p = 0"),
        ({"name": "erdos-renyi", "p": 1e-6}, "topology: no connected graph was found"),
        ({"name": "random-regular", "degree": 1}, "topology: no connected graph"),
        ({"name": "torus", "rows": 3}, "rows = 3 does not divide peers = 8: take one of [1, 2, 4"),
        ({"name": "directed-ring", "weights": "metropolis"}, "but 7 sends to 0 and 0 not to 7"),
        ({"name": "ring", "weights": "edges"}, "edge 1 -> 0 is none"),
        ({"file": "no.edgelist"}, "topology.file: there is no file"),
        ({"file": "setup.cfg"}, ".edgelist, .graphml, .py"),
    ],
)
def test_refusals(spec: dict[str, Any], words: str) -> None:
    assert words in refusal(spec, 8)


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("0 1\n2 3", {}, "not connected: peer 0 does not reach 2, 3"),
        ("0 1\n1 2\n2 1\n2 3\n3 1", {}, "not strongly connected: peer 0 is not reached from 1, 2"),
        ("0 1\n1 2", {}, "the graph has 3 nodes but peers = 4: set peers = 3"),
        ("1 2\n2 3\n3 4", {}, "one of them 4: number them 0 to 3"),
        ("0 1\n1 2\n2 3\n3 3", {}, "an edge from 3 to itself, but 'metropolis' sets W_ii"),
        ("0 1\n1 b", {}, "a.edgelist line 2: '1 b' is no edge or a repeated one"),
        ("0,1", {}, "a.edgelist line 1"),
        ("0 1\n# x\n0 1", {}, "a.edgelist line 3"),
        ("0 1 -0.5", {}, "a.edgelist line 1"),
        ("0 1 nan", {}, "a.edgelist line 1"),
        ("0 1 .1\n1 0 .2\n1 2\n2 3", {"directed": False}, "directed = true"),
        ("0 1 .1\n1 2 0\n2 3 .1", {"weights": "edges"}, "edge 2 -> 1 is 0.0"),
        ("0 1 .8\n0 2 .8\n3 0 .1", {"weights": "edges"}, "the weights into 0 sum to 1.7, W_ii"),
        ("0 1 .5\n1 2 .5\n2 3 .5\n0 0 .4", {"weights": "edges"}, "row 0 sums to 0.9, but every"),
    ],
)
def test_bad_edge_lists(tmp_path: Path, text: str, more: dict[str, Any], words: str) -> None:
    assert words in refusal(write(tmp_path, "a.edgelist", text) | more, 4, tmp_path)


def test_bad_graphs(tmp_path: Path) -> None:
    assert "line 1, column 0" in refusal(write(tmp_path, "a.graphml", "0 1"), 2, tmp_path)
    bad = (
        ("nx.DiGraph([(0, 1)])", "not strongly connected: peer 0 is not reached from 1"),
        ("nx.MultiGraph([(0, 1), (0, 1)])", "parallel edges"),
        ("nx.Graph([('a', 'b')])", "number them 0 to 1"),
        ("nx.Graph([(0, 1, {'weight': 'x'})])", "weight is no number"),
        ("nx.Graph([(0, 1, {'weight': -1})])", "edge 1 -> 0 is -1.0"),
        ("nx.Graph([(0, 1, {'weight': float('inf')})])", "edge 1 -> 0 is inf"),
    )
    for number, (graph, words) in enumerate(bad):
        text = f"import networkx as nx\ndef graph(n):\n    return {graph}\n"
        spec = write(tmp_path, f"g{number}.py", text) | {"weights": "edges"}
        assert words in refusal(spec, 2, tmp_path), graph
    assert "peer 1 has no samples" in refusal(
        {"name": "ring", "weights": "data-size"}, 3, samples=[1, 0, 2]
    )


def test_listing() -> None:
    listed = topology.available()
    assert sorted(listed) == NAMES
    assert len(NAMES) >= 16
    assert listed["random-regular"][0] == "degree: int = 3, seed: int = the experiment's"
    assert listed["torus"][0] == "rows: int | None = None"
    assert listed["ring"] == ("", load_file(FOLDER / "ring.py").__doc__.splitlines()[0])
    assert all(summary for _, summary in listed.values())


def test_listing_does_not_import_networkx() -> None:
    code = (
        "import sys, p2psim.network.topology as t; t.available(); "
        "sys.exit('networkx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_large_ring_and_its_read_only_matrix() -> None:
    built = make({"name": "ring"}, 1000)
    assert built.senders(500, 7) == built.receivers(500, 7) == [499, 501]
    with pytest.raises(ValueError, match="read-only"):
        built.at(0)[0, 0] = 1
