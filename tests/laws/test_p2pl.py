"""P2PL with Affinity: I12 to I14 of the published method, where it diverges, how it starts."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim.errors import InputError
from p2psim.experiment import plan, scenario
from tests.support.programs import invoke
from tests.support.reference import Matrix
from tests.support.runs import (
    Problem,
    Run,
    Table,
    difference,
    gossip,
    quadratic_table,
    quadratics,
    run_in_threads,
    run_quadratic,
)
from tests.support.thorough import cover, thorough

HEAVY: Table = {"momentum": 0.8, "weight_decay": 0.01}
ALONE: Table = {"name": "p2pl", "eta_d": 0.0, "sync_rounds": 0}
SIZES = [20, 32, 52, 12, 40, 26]


def p2pl(**parameters: Any) -> Table:
    return {"name": "p2pl", "sync_rounds": 0, **parameters}


def of_different_sizes(algorithm: Table | str, topology: Table, **changes: Any) -> Table:
    """Peers with SIZES[i] samples and first models of their own, for lr = 0."""
    table: Table = {
        "name": "sizes",
        "peers": len(SIZES),
        "rounds": 1,
        "data": {
            "name": "digits",
            "partition": {"name": "explicit", "classes": [[0, 1]] * 6, "samples": SIZES},
        },
        "model": {"name": "linear", "dtype": "float64", "init": "own"},
        "learning": {"optimizer": {"name": "sgd", "lr": 0.0}},
        "algorithm": algorithm,
        "topology": topology,
        "eval": {"every": 10**6},
    }
    for section, values in changes.items():
        table[section] = {**table[section], **values} if isinstance(values, dict) else values
    return table


def sizes() -> Matrix:
    """n_k of `of_different_sizes`."""
    return np.array(SIZES, float)


def around(run: Run) -> Matrix:
    """1 where k hears j, itself included."""
    return np.where(run.weights[0] != 0, 1.0, 0.0)


def eccentricity(linked: Matrix, source: int) -> int:
    """Rounds until what `source` has is everywhere; linked[k, j] where k hears j."""
    has, rounds = np.arange(len(linked)) == source, 0
    while not has.all():
        has, rounds = (linked @ has) > 0, rounds + 1
    return rounds


@pytest.mark.parametrize(("T", "S"), [thorough(1, 1), thorough(5, 1), (3, 2)])
def test_i12_without_biases_it_is_local_dsgd(T: int, S: int, tmp_path: Path) -> None:
    problem, options = quadratics(7), {"optimizer": HEAVY, "local_steps": T, "consensus_steps": S}
    ran = run_quadratic(problem, tmp_path, ALONE, **options)
    wanted = run_quadratic(problem, tmp_path, "d-psgd", **options)
    assert ran.x.tobytes() == wanted.x.tobytes()
    assert ran.train["bytes_sent"].tolist() == wanted.train["bytes_sent"].tolist()


@pytest.mark.parametrize("eta_d", [0.1, 0.4])
def test_i12_for_two_pre_is_post_with_twice_eta_d(eta_d: float, tmp_path: Path) -> None:
    problem = quadratics(2)
    options: Table = {"topology": "complete", "optimizer": HEAVY, "local_steps": 4}
    pre = run_quadratic(problem, tmp_path, p2pl(eta_d=eta_d, affinity_ref="pre"), **options)
    post = run_quadratic(problem, tmp_path, p2pl(eta_d=2 * eta_d), **options)
    other = run_quadratic(problem, tmp_path, p2pl(eta_d=eta_d), **options)
    assert difference(pre.x, post.x) <= 1e-12
    assert difference(other.x, post.x) > 1e-3


EDGES = {
    "directed-ring": [(k, (k + 1) % 6) for k in range(6)],
    "path": [(k, k + 1) for k in range(5)],
    "star": [(2, k) for k in range(6) if k != 2],
}


@pytest.mark.parametrize(
    ("granularity", "graph"), cover(itertools.product(["model", "layer"], EDGES))
)
def test_i13_all_start_from_the_longest(granularity: str, graph: str, tmp_path: Path) -> None:
    edges = EDGES[graph]
    # Weights that are nothing in float32: what was adopted is mixed no more.
    lines = [f"{u} {v} 1e-300" for u, v in edges]
    (tmp_path / "graph.edgelist").write_text("\n".join(lines))
    directed = len(edges) == 6
    topology = {"file": "graph.edgelist", "weights": "edges", "directed": directed}
    layers = [slice(0, 640), slice(640, 650)] if granularity == "layer" else [slice(0, 650)]
    dtype = {"model": {"dtype": "float32"}}
    first = run_in_threads(of_different_sizes("isolated", topology, **dtype), tmp_path).x
    assert len({x.tobytes() for x in first}) == len(SIZES)
    owners = [max(range(6), key=lambda k: float((first[k][part] ** 2).sum())) for part in layers]
    longest = np.concatenate([first[k][part] for k, part in zip(owners, layers, strict=True)])
    linked = around(run_in_threads(of_different_sizes("d-psgd", topology), tmp_path))
    enough = max(eccentricity(linked, owner) for owner in owners)
    for given, all_equal in ((None, True), (enough, True), (enough - 1, False)):
        wish = {} if given is None else {"sync_rounds": given}
        algorithm = {"name": "p2pl", "eta_d": 0.0, "granularity": granularity, **wish}
        table = of_different_sizes(algorithm, topology, **dtype)
        ran = run_in_threads({**table, "eval": {"every": 1, "phases": ["local"]}}, tmp_path)
        spread = float(ran.eval["consensus_distance"][0, 0])
        assert (spread == 0) == all_equal, (given, spread)
        if all_equal:
            assert {x.tobytes() for x in ran.x} == {longest.tobytes()}
        # 4d + 4 bytes a round and neighbor, with one more number for each further tensor.
        sent = 4 * 650 + (4 * 650 + 4 * len(layers)) * (given or 0)
        receivers = around(ran).sum(axis=0) - 1
        if given is not None:
            assert ran.train["bytes_sent"][:, -1].tolist() == (receivers * sent).tolist()


def test_of_two_that_are_equally_long_the_first_owner_with_the_lowest_rank_wins(
    tmp_path: Path,
) -> None:
    """Rank 0 begins with less: here "the neighbor of lowest rank" alone would never agree."""
    problem = gossip(4, d=6)
    problem.x0[:] = 0
    problem.x0[1, 2] = problem.x0[3, 4] = 2.0
    # 0(least) - 3(long), 0 - 2, 2 - 1(long): 3 reaches 0 first, 1 must win everywhere.
    (tmp_path / "line.edgelist").write_text("3 0\n0 2\n2 1\n")
    ran = run_quadratic(
        problem,
        tmp_path,
        {"name": "p2pl", "eta_d": 0.0},
        topology={"file": "line.edgelist"},
        rounds=1,
    )
    assert ran.x.tolist() == [problem.x0[1].tolist()] * 4


@pytest.mark.parametrize(
    ("epsilon", "topology"),
    cover(
        itertools.product([1.0, [1.0, 0.4, 0.7, 0.9, 0.2, 0.5]], ["star", "ring", "complete"]),
        lambda epsilon, _: str(epsilon),
        lambda _, topology: topology,
    ),
)
def test_i14_the_limit_is_weighted_by_sizes(
    topology: str, epsilon: float | list[float], tmp_path: Path
) -> None:
    graph = {"name": topology, "weights": "data-size"}
    first = run_in_threads(of_different_sizes("isolated", graph), tmp_path).x
    algorithm = {**ALONE, "epsilon": epsilon}
    ran = run_in_threads(of_different_sizes(algorithm, graph, rounds=400), tmp_path)
    n = sizes()
    pi = n * (around(ran) @ n) / np.broadcast_to(epsilon, len(n))
    pi /= pi.sum()
    assert difference(ran.x, np.tile(pi @ first, (len(n), 1))) <= 1e-10
    assert difference(ran.x, np.tile(first.mean(axis=0), (len(n), 1))) > 1e-3


def test_on_the_complete_graph_one_step_averages_by_sizes(tmp_path: Path) -> None:
    graph = {"name": "complete", "weights": "data-size"}
    first = run_in_threads(of_different_sizes("isolated", graph), tmp_path).x
    ran = run_in_threads(of_different_sizes(ALONE, graph), tmp_path)
    wanted = sizes() @ first / sizes().sum()
    assert difference(ran.x, np.tile(wanted, (len(SIZES), 1))) <= 1e-12


@pytest.mark.parametrize("ref", ["post", "pre"])
@pytest.mark.parametrize("topology", ["star", "ring", "path"])
def test_affinity_is_weighted_by_the_neighbors_sizes(
    topology: str, ref: str, tmp_path: Path
) -> None:
    """alpha and beta from n_k and the graph alone; T = 3 and no gradients, three rounds."""
    graph, eta_d, T = {"name": topology, "weights": "data-size"}, 0.6, 3
    first = run_in_threads(of_different_sizes("isolated", graph), tmp_path).x
    algorithm = p2pl(eta_d=eta_d, affinity_ref=ref)
    table = of_different_sizes(algorithm, graph, rounds=3, learning={"local_steps": T})
    ran = run_in_threads(table, tmp_path)
    n, linked = sizes(), around(ran) - np.eye(len(SIZES))
    A = (linked + np.eye(len(n))) * n
    A /= A.sum(axis=1, keepdims=True)
    B = linked * n / (linked @ n)[:, None]
    X, D = first, np.zeros_like(first)
    for _ in range(3):
        X = X + T * eta_d * D
        before, X = X, A @ X
        D = (B @ before - (X if ref == "post" else before)) / T
    assert difference(ran.x, X) <= 1e-12


RADII = [  # graph, peers, eta_d, ref, spectral radius of the map on disagreements
    ("complete", 2, 1.0, "pre", 2.0),
    ("complete", 10, 1.0, "pre", 1.11),
    ("ring", 8, 1.0, "pre", 2.33),
    ({"name": "torus", "rows": 4}, 16, 1.0, "pre", 2.6),
    ("complete", 2, 0.45, "pre", 0.9),
    ("complete", 2, 1.0, "post", 1.0),
    ("ring", 8, 1.0, "post", 1.0),
    ({"name": "torus", "rows": 4}, 16, 1.0, "post", 1.0),
    ("complete", 10, 1.0, "post", 0.11),
]


@pytest.mark.parametrize(("topology", "n", "eta_d", "ref", "radius"), RADII)
def test_plan_knows_the_spectral_radius_and_warns(
    topology: Any, n: int, eta_d: float, ref: str, radius: float, tmp_path: Path
) -> None:
    algorithm = p2pl(eta_d=eta_d, affinity_ref=ref)
    table = quadratic_table(quadratics(n), tmp_path, algorithm, topology=topology)
    said = plan.plan(scenario.load(table, tmp_path))
    found = float(re.findall(r"[\d.]+", said["disagreement"])[0])
    assert abs(found - radius) <= 0.005
    assert ("warning" in said) == (ref == "pre" and radius >= 1)


@pytest.mark.parametrize("ref", ["pre", "post"])
@pytest.mark.parametrize("algorithm", [{"eta_d": 1.0}, {"eta_d": 0.3, "eta_b": 0.2}])
@pytest.mark.parametrize("S", [1, 2])
def test_disagreements_grow_as_plan_says(
    algorithm: Table, ref: str, S: int, tmp_path: Path
) -> None:
    """From X = I and without gradients one round leaves its map C, and two leave C M."""
    n, given = 8, p2pl(**algorithm, affinity_ref=ref, epsilon=0.8)
    problem = Problem(np.zeros((n, 1, n)), np.zeros((n, 1)), np.eye(n))
    options: Table = {"topology": "path", "consensus_steps": S, "local_steps": 2}
    C, CM = (run_quadratic(problem, tmp_path, given, rounds=k, **options).x for k in (1, 2))
    M = np.linalg.solve(C, CM)
    values = np.linalg.eigvals(M)
    one = np.abs(values - 1).argmin()  # of vectors that are the same on every device
    assert abs(values[one] - 1) <= 1e-9
    table = quadratic_table(problem, tmp_path, given, rounds=2, **options)
    said = plan.plan(scenario.load(table, tmp_path))["disagreement"]
    radius = np.abs(np.delete(values, one)).max()
    assert abs(radius - float(re.findall(r"[\d.]+", said)[0])) <= 1e-4


def test_the_printed_biases_diverge_as_predicted(tmp_path: Path) -> None:
    """Two devices, eta_d = 1: differences double; eta_b = 1: so do the norms."""
    problem, options = gossip(2), {"topology": "complete", "rounds": 30, "local_steps": 10}
    options["eval"] = {"every": 1, "phases": ["local"]}
    pre = p2pl(affinity_ref="pre")
    ran = run_quadratic(problem, tmp_path, pre, **options)
    distance = ran.eval["consensus_distance"][0]
    assert np.abs(distance[1:] / distance[:-1] - 2).max() <= 1e-9
    printed = p2pl(eta_d=0.0, eta_b=1.0, bias="printed")
    table = quadratic_table(problem, tmp_path, printed, topology="complete")
    assert (
        "all models are multiplied by 2" in plan.diagnose(scenario.load(table, tmp_path))["warning"]
    )
    ran = run_quadratic(problem, tmp_path, printed, topology="complete", rounds=1)
    assert difference(ran.x, problem.x0 + problem.x0.mean(axis=0)) <= 1e-12


def test_a_run_that_will_diverge_is_warned_of_before_it_starts(tmp_path: Path) -> None:
    quadratics(2).write(tmp_path / "problem.npz")
    (tmp_path / "pre.toml").write_text(
        'peers = 2\nrounds = 2\ndata = { name = "quadratic", file = "problem.npz" }\n'
        'model = { name = "vector", dtype = "float64" }\ntopology = "complete"\n'
        'algorithm = { name = "p2pl", affinity_ref = "pre" }\n'
    )
    text = "this diverges: differences between models are multiplied by 2 in every round; lower"
    for command in (["plan"], ["run", "--debug", "--out", str(tmp_path / "out")]):
        done = invoke(*command, tmp_path / "pre.toml")
        assert done.exit_code == 0
        assert text in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"affinity_ref": "pre"}, "this diverges: .* by 2 in.* lower eta_d or set affinity_ref"),
        ({"affinity_ref": "pre", "eta_d": 0.5}, "this does not converge: .* by 1 in"),
        ({"eta_d": 1.1}, r"this diverges: .* by 1\.1 in.* round; lower eta_d$"),
        ({"eta_d": 0.0, "epsilon": 3.0}, "this diverges: .* by 2 in.* round; lower epsilon$"),
        ({"eta_d": 0.0, "eta_b": 1.0, "bias": "printed"}, 'by 2 in.* set bias = "anchored" or set'),
        ({}, None),
    ],
)
def test_a_warning_names_what_to_change(
    parameters: Table, said: str | None, tmp_path: Path
) -> None:
    table = quadratic_table(quadratics(2), tmp_path, p2pl(**parameters), topology="complete")
    found = plan.diagnose(scenario.load(table, tmp_path)).get("warning")
    assert (found is None) == (said is None)
    assert found is None or re.search(said or "", found)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"epsilon": [1.0, 0.5]}, "epsilon has 2 entries for 3 peers; give one for each"),
        ({"epsilon": 0.0}, "algorithm.epsilon = 0.0: give a number > 0 or a list"),
        ({"eta_b": 1.5}, "eta_b = 1.5: with bias = 'anchored' give 0 to 1"),
        ({"sync_rounds": -1}, "algorithm.sync_rounds = -1: give a whole number >= 0"),
        ({"sync_rounds": 4}, "sync_rounds = 4: give at most 3, the number of peers"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    parameters: Table, text: str, tmp_path: Path
) -> None:
    table = quadratic_table(quadratics(3), tmp_path, {"name": "p2pl", **parameters})
    with pytest.raises(InputError, match=re.escape(text)):
        scenario.load(table, tmp_path)
