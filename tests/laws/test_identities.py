"""Identities that hold whatever the data: I1 to I11, I23 and I24, in float64, by real runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim import registry
from p2psim.errors import PeerError
from tests.support import reference
from tests.support.reference import Matrix
from tests.support.runs import Table, difference, gossip, quadratics, run_quadratic
from tests.support.thorough import cover
from tests.support.traffic_log import run_logged

MOMENTUM: Table = {"momentum": 0.8, "weight_decay": 0.01}
TOP: Table = {"name": "top-k", "keep": 0.2}
PUSH: Table = {"push_sum": True}
UNBALANCED: Table = {"name": "random-directed", "p": 0.25}
EVERY_ROUND: Table = {"eval": {"every": 1, "phases": ["consensus"]}}
COMPRESSORS: dict[str, Table] = {
    "affine-8": {},
    "identity": {},
    "qsgd": {"bits": 3, "biased": True},
    "random-k": {"k": 4},
    "sign": {},
    "top-k": {"k": 3, "values": "affine-8"},
}


def of_the_package(kind: str) -> list[str]:
    known = registry.names(kind).items()
    return sorted(name for name, cls in known if cls.__module__.startswith("p2psim."))


def label(algorithm: Table) -> str:
    """The id of a test."""
    return "-".join(str(value) for value in algorithm.values())


def choco(**parameters: Any) -> Table:
    return {"name": "choco-sgd", **parameters}


def squeeze(**parameters: Any) -> Table:
    return {"name": "deep-squeeze", **parameters}


CTA: Table = {"name": "d-psgd", "order": "cta"}
FORMS = [choco(), choco(variant="stale"), squeeze(), choco(**PUSH), squeeze(**PUSH)]
BY_LABEL = {label(form): form for form in FORMS}


def sgd(gradient: Callable[[Matrix], Matrix], x: Matrix, steps: int) -> Matrix:
    """SGD on one vector with the knobs of MOMENTUM and lr = 0.05."""
    v = np.zeros_like(x)
    for _ in range(steps):
        v = 0.8 * v + gradient(x) + 0.01 * x
        x = x - 0.05 * v
    return x


def test_i1_atc_on_the_complete_graph_is_sgd_on_the_union_and_cta_is_not(tmp_path: Path) -> None:
    problem = quadratics(6, same_start=True)
    a, b = problem.A.reshape(-1, 12), problem.b.reshape(-1)
    wanted = sgd(lambda x: a.T @ (a @ x - b) / len(b), problem.x0[0], 60)
    options: Table = {"topology": "complete", "rounds": 60, "optimizer": MOMENTUM}
    atc = run_quadratic(problem, tmp_path, "d-psgd", **options)
    assert difference(atc.x, np.tile(wanted, (6, 1))) <= 1e-12
    cta = run_quadratic(problem, tmp_path, CTA, **options)
    assert difference(cta.x, np.tile(wanted, (6, 1))) > 1e-2


def test_i2_choco_fresh_identity_gamma_1_is_atc(tmp_path: Path) -> None:
    problem, options = quadratics(8), {"rounds": 30, "optimizer": MOMENTUM}
    one = run_quadratic(problem, tmp_path, choco(gamma=1.0), **options)
    other = run_quadratic(problem, tmp_path, "d-psgd", **options)
    assert difference(one.x, other.x) <= 1e-12


def test_i3_choco_stale_identity_gamma_1_is_cta_from_a_common_start(tmp_path: Path) -> None:
    stale, options = choco(gamma=1.0, variant="stale"), {"rounds": 30, "optimizer": MOMENTUM}
    common = quadratics(8, same_start=True)
    one = run_quadratic(common, tmp_path, stale, **options)
    other = run_quadratic(common, tmp_path, CTA, **options)
    assert difference(one.x, other.x) <= 1e-12
    # Without it x_hat = 0 is not x: they part in the very first round.
    first = [run_quadratic(quadratics(8), tmp_path, a, rounds=1).x for a in (stale, CTA)]
    assert difference(*first) > 1e-2


def test_i4_choco_fresh_identity_is_atc_with_w_gamma(tmp_path: Path) -> None:
    gamma, n = 0.35, 8
    lines = [f"{i} {(i + 1) % n} {gamma / 3!r}" for i in range(n)]
    (tmp_path / "slow.edgelist").write_text("\n".join(lines))
    problem, options = quadratics(n), {"rounds": 30, "optimizer": MOMENTUM}
    slow = {"file": "slow.edgelist", "weights": "edges"}
    one = run_quadratic(problem, tmp_path, choco(gamma=gamma), **options)
    other = run_quadratic(problem, tmp_path, "d-psgd", topology=slow, **options)
    assert (
        np.abs(other.weights[0] - (np.eye(n) + gamma * (reference.ring(n) - np.eye(n)))).max()
        < 1e-15
    )
    assert difference(one.x, other.x) <= 1e-12


@pytest.mark.parametrize(
    ("form", "compressor"), cover(itertools.product(BY_LABEL, of_the_package("compressor")))
)
def test_i5_gossip_preserves_the_sum(form: str, compressor: str, tmp_path: Path) -> None:
    assert compressor in COMPRESSORS, f"add compressor {compressor!r} to COMPRESSORS"
    problem = gossip(6)
    algorithm = {
        **BY_LABEL[form],
        "gamma": 0.1,
        "compressor": {"name": compressor, **COMPRESSORS[compressor]},
    }
    x = run_quadratic(problem, tmp_path, algorithm, rounds=30).x
    assert difference(x, problem.x0) > 1e-3  # it did mix
    assert difference(x.sum(axis=0), problem.x0.sum(axis=0)) <= 1e-12


@pytest.mark.parametrize(
    ("variant", "compressor"),
    cover(itertools.product(["fresh", "stale"], of_the_package("compressor"))),
)
def test_i6_copies_are_the_sum_of_what_was_sent(
    variant: str, compressor: str, tmp_path: Path
) -> None:
    late = int(variant == "stale")  # rounds after which a copy has what was sent
    problem, rounds, n = quadratics(6), 20, 6
    rest = {
        "gamma": 0.2,
        "variant": variant,
        "compressor": {"name": compressor, **COMPRESSORS[compressor]},
    }
    ran, log = run_logged(problem, tmp_path, {"name": "watched.py:Choco", **rest}, rounds=rounds)
    plain = run_quadratic(problem, tmp_path, choco(**rest), rounds=rounds)
    assert ran.x.tobytes() == plain.x.tobytes()  # watching changes nothing
    for i in range(n):
        copy = np.zeros(12)
        for q in log[i]["sent"][: rounds - late]:
            copy += q
        assert copy.tobytes() == log[i]["state"][-1].tobytes()
        assert sorted(log[i]["received"]) == sorted({(i - 1) % n, (i + 1) % n})
        for j, received in log[i]["received"].items():
            assert len(received) == rounds - late
            theirs = np.zeros(12)
            for q in received:
                theirs += q
            assert theirs.tobytes() == log[j]["state"][-1].tobytes()


def test_i7_deep_squeeze_loses_nothing(tmp_path: Path) -> None:
    algorithm = {"name": "watched.py:Squeeze", "gamma": 0.1, "compressor": TOP}
    _, log = run_logged(quadratics(6), tmp_path, algorithm, rounds=50, optimizer=MOMENTUM)
    for peer in log.values():
        for t in (1, 10, 50):
            sent = np.sum(peer["sent"][:t], axis=0) + peer["state"][t - 1]
            assert difference(sent, np.sum(peer["before"][:t], axis=0)) <= 1e-12


def test_i7_deep_squeeze_identity_gamma_1_is_atc(tmp_path: Path) -> None:
    problem, options = quadratics(8), {"rounds": 30, "optimizer": MOMENTUM}
    one = run_quadratic(problem, tmp_path, squeeze(gamma=1.0), **options)
    other = run_quadratic(problem, tmp_path, "d-psgd", **options)
    assert difference(one.x, other.x) <= 1e-12


@pytest.mark.thorough
def test_i8_choco_gossip_converges_linearly_and_deep_squeeze_plateaus(tmp_path: Path) -> None:
    problem, rounds = gossip(6, d=20), 800
    mean = np.tile(problem.x0.mean(axis=0), (6, 1))
    rest: Table = {"gamma": 0.1, "compressor": TOP}
    options: Table = {"rounds": rounds, "eval": {"every": 100, "phases": ["consensus"]}}
    ran = run_quadratic(problem, tmp_path, choco(**rest), **options)
    assert difference(ran.x, mean) <= 1e-12
    distance = ran.eval["consensus_distance"][0]
    rates = distance[1:] / distance[:-1]  # in 100 rounds each
    assert rates.max() < 0.05
    assert rates.max() / rates.min() < 1.2
    squeezed = run_quadratic(problem, tmp_path, squeeze(**rest), **options)
    distance = squeezed.eval["consensus_distance"][0]
    start = np.sqrt(((problem.x0 - mean) ** 2).sum() / 6)
    assert distance.max() < start
    assert distance.min() > 0.1 * start  # where CHOCO is at 1e-12


def test_i8_choco_gossip_keeps_the_bound_of_its_theorem(tmp_path: Path) -> None:
    n, d, keep, rounds = 8, 20, 0.5, 150
    W = reference.ring(n)
    rho = 1 - np.sort(np.abs(np.linalg.eigvalsh(W)))[-2]
    beta, delta = np.linalg.norm(np.eye(n) - W, 2), keep
    gamma = rho**2 * delta / (16 * rho + rho**2 + 4 * beta**2 + 2 * rho * beta**2 - 8 * rho * delta)
    problem = gossip(n, d=d)
    algorithm = {
        "name": "watched.py:Choco",
        "gamma": float(gamma),
        "compressor": {"name": "top-k", "keep": keep},
    }
    _, log = run_logged(problem, tmp_path, algorithm, rounds=rounds)
    mean, errors = problem.x0.mean(axis=0), []
    for t in range(rounds):
        X = np.array([log[i]["before"][t] for i in range(n)])
        hat = np.array([log[i]["state"][t] for i in range(n)])
        errors.append(((X - mean) ** 2).sum() + ((X - hat) ** 2).sum())
    bound = errors[0] * (1 - rho**2 * delta / 82) ** np.arange(rounds)
    assert (np.array(errors) <= bound * (1 + 1e-12)).all()
    assert errors[-1] < 0.9 * errors[0]


def test_i9_push_sum_on_a_doubly_stochastic_w_is_atc(tmp_path: Path) -> None:
    problem, options = quadratics(8), {"rounds": 30, "optimizer": MOMENTUM}
    ran, log = run_logged(problem, tmp_path, {"name": "watched.py:Push"}, **options)
    u = np.array([[state[-1] for state in log[i]["state"]] for i in range(8)])
    assert np.abs(u - 1).max() <= 1e-12
    atc = run_quadratic(problem, tmp_path, "d-psgd", **options)
    assert difference(ran.x, atc.x) <= 1e-12


def test_i9_push_sum_reaches_the_mean_on_a_directed_graph(tmp_path: Path) -> None:
    problem, options = gossip(7), {"topology": UNBALANCED, "rounds": 250}
    ran, log = run_logged(problem, tmp_path, {"name": "watched.py:Push"}, **options)
    u = np.array([[state[-1] for state in log[i]["state"]] for i in range(7)])
    assert np.abs(u.sum(axis=0) - 7).max() <= 1e-12
    assert np.abs(u - 1).max() > 0.1  # the graph is not balanced
    assert difference(ran.x, np.tile(problem.x0.mean(axis=0), (7, 1))) <= 1e-12


@pytest.mark.parametrize("method", [choco(**PUSH), squeeze(**PUSH)], ids=label)
def test_i10_push_sum_identity_gamma_1_is_sgp(method: Table, tmp_path: Path) -> None:
    options: Table = {"topology": UNBALANCED, "rounds": 30, "optimizer": MOMENTUM}
    problem = quadratics(7)
    one = run_quadratic(problem, tmp_path, {**method, "gamma": 1.0}, **options)
    other = run_quadratic(problem, tmp_path, "sgp", **options)
    assert difference(one.x, other.x) <= 1e-12


@pytest.mark.thorough
@pytest.mark.parametrize("variant", ["fresh", "stale"])
def test_i10_push_sum_choco_reaches_the_exact_mean(variant: str, tmp_path: Path) -> None:
    problem = gossip(7, d=20)
    mean = np.tile(problem.x0.mean(axis=0), (7, 1))
    algorithm = choco(**PUSH, variant=variant, gamma=0.1, compressor=TOP)
    x = run_quadratic(problem, tmp_path, algorithm, topology=UNBALANCED, rounds=1500).x
    assert difference(x, mean) <= 1e-12


@pytest.mark.thorough
def test_i10_push_sum_deep_squeeze_stops_near_the_mean(tmp_path: Path) -> None:
    problem = gossip(7, d=20)
    mean = np.tile(problem.x0.mean(axis=0), (7, 1))
    start, options = difference(problem.x0, mean), {"topology": UNBALANCED, "rounds": 700}
    plateau = []
    for gamma in (0.1, 0.025):
        algorithm = squeeze(**PUSH, gamma=gamma, compressor=TOP)
        x = run_quadratic(problem, tmp_path, algorithm, **options).x
        plateau.append(difference(x, mean))
    assert plateau[0] < 0.2 * start
    assert plateau[1] > 1e-3 * start  # where CHOCO is at the mean itself
    assert 3 < plateau[0] / plateau[1] < 8  # it shrinks with gamma


@pytest.mark.parametrize("method", [choco(**PUSH), squeeze(**PUSH)], ids=label)
def test_a_push_sum_weight_that_is_not_positive_ends_the_run(method: Table, tmp_path: Path) -> None:
    star = {"name": "star", "weights": "out-degree"}
    with pytest.raises(PeerError, match=r"push-sum weight has become -.* lower gamma"):
        run_quadratic(gossip(4), tmp_path, {**method, "gamma": 3.0}, topology=star, rounds=9)


@pytest.mark.parametrize(("graph", "n"), [("ring", 8), ("path", 5), ("star", 6)])
def test_i11_gossip_contracts_by_the_second_eigenvalue(graph: str, n: int, tmp_path: Path) -> None:
    options: Table = {"topology": graph, "rounds": 40, **EVERY_ROUND}
    ran = run_quadratic(gossip(n), tmp_path, "d-psgd", **options)
    second = np.sort(np.abs(np.linalg.eigvalsh(ran.weights[0])))[-2]
    distance = ran.eval["consensus_distance"][0]
    assert abs(distance[-1] / distance[-2] - second) <= 1e-9
    if graph == "ring":
        assert abs(second - 0.804737854) <= 1e-9


@pytest.mark.parametrize("name", of_the_package("algorithm"))
def test_i23_one_peer_alone_is_plain_sgd(name: str, tmp_path: Path) -> None:
    problem = quadratics(1)
    a, b = problem.A[0], problem.b[0]
    wanted = sgd(lambda x: a.T @ (a @ x - b) / len(b), problem.x0[0], 80)
    x = run_quadratic(
        problem,
        tmp_path,
        {"name": name, **({"k": 1} if name in ("k-sgd", "lgc-sgd") else {})},
        rounds=40,
        optimizer=MOMENTUM,
        local_steps=2,
        consensus_steps=3,
        time={"compute": {"name": "constant", "seconds_per_step": 0.5}},
    ).x
    assert difference(x[0], wanted) <= 1e-12


@pytest.mark.parametrize(
    ("form", "compressor"), cover(itertools.product(BY_LABEL, of_the_package("compressor")))
)
def test_i23_one_peer_alone_is_plain_sgd_whatever_is_compressed(
    form: str, compressor: str, tmp_path: Path
) -> None:
    problem = quadratics(1)
    a, b = problem.A[0], problem.b[0]
    wanted = sgd(lambda x: a.T @ (a @ x - b) / len(b), problem.x0[0], 40)
    choice = {"name": compressor, **COMPRESSORS[compressor]}
    algorithm = {**BY_LABEL[form], "compressor": choice}
    x = run_quadratic(problem, tmp_path, algorithm, rounds=40, optimizer=MOMENTUM).x
    assert difference(x[0], wanted) <= 1e-12


@pytest.mark.parametrize("method", FORMS, ids=label)
def test_i24_gamma_0_is_isolated_training(method: Table, tmp_path: Path) -> None:
    problem, options = quadratics(6), {"rounds": 40, "optimizer": MOMENTUM, "local_steps": 2}
    algorithm = {**method, "gamma": 0.0, "compressor": TOP}
    got = run_quadratic(problem, tmp_path, algorithm, **options)
    alone = run_quadratic(problem, tmp_path, "isolated", **options)
    assert got.x.tobytes() == alone.x.tobytes()


@pytest.mark.parametrize("method", [{"name": "d-psgd"}, CTA, {"name": "sgp"}, *FORMS], ids=label)
def test_i24_w_that_is_the_identity_is_isolated_training(method: Table, tmp_path: Path) -> None:
    # No edge at all would be refused as not connected; what adds 1e-300 to a number adds nothing.
    n = 6
    lines = [f"{i} {(i + 1) % n} 1e-300" for i in range(n)]
    (tmp_path / "none.edgelist").write_text("\n".join(lines))
    problem, options = quadratics(n), {"rounds": 40, "optimizer": MOMENTUM}
    none = {"file": "none.edgelist", "weights": "edges"}
    got = run_quadratic(problem, tmp_path, method, topology=none, **options)
    assert (got.weights[0].diagonal() == 1).all()
    alone = run_quadratic(problem, tmp_path, "isolated", **options)
    if method == CTA:  # x - (x - (x - step)) is x - step but for its last bits
        assert difference(got.x, alone.x) <= 1e-12
    else:
        assert got.x.tobytes() == alone.x.tobytes()


@pytest.mark.parametrize("order", ["atc", "cta"])
@pytest.mark.parametrize(("graph", "n"), [("ring", 8), ("directed-ring", 6)])
def test_d_psgd_stops_at_its_known_bias(order: str, graph: str, n: int, tmp_path: Path) -> None:
    """atc: X = W (X - lr (H X - c)). cta: X = W X - lr (H X - c). H_i = A_i^T A_i / m."""
    problem, lr, d = quadratics(n), 0.15, 12
    W = np.kron(reference.ring(n) if graph == "ring" else reference.directed_ring(n), np.eye(d))
    H, c = np.zeros((n * d, n * d)), np.zeros(n * d)
    for i, (a, b) in enumerate(zip(problem.A, problem.b, strict=True)):
        own = slice(i * d, (i + 1) * d)
        H[own, own], c[own] = a.T @ a / len(b), a.T @ b / len(b)
    one = np.eye(n * d)
    if order == "atc":
        wanted = np.linalg.solve(one - W @ (one - lr * H), lr * W @ c)
    else:
        wanted = np.linalg.solve(one - W + lr * H, lr * c)
    algorithm = {"name": "d-psgd", "order": order}
    x = run_quadratic(
        problem, tmp_path, algorithm, topology=graph, rounds=300, optimizer={"lr": lr}
    ).x
    assert difference(x.reshape(-1), wanted) <= 1e-8
    optimum = np.linalg.solve(
        sum(a.T @ a for a in problem.A),
        sum(a.T @ b for a, b in zip(problem.A, problem.b, strict=True)),
    )
    assert difference(x, np.tile(optimum, (n, 1))) > 1e-2  # a bias worth its name
