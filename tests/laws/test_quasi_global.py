"""Quasi-global momentum, I15: special cases, and every gossip against matrices of this file."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.laws.test_plan import CASES as PLANNED
from tests.laws.test_plan import experiment
from tests.support import reference
from tests.support.reference import Matrix
from tests.support.runs import (
    Problem,
    Table,
    difference,
    gossip,
    quadratics,
    run_in_threads,
    run_quadratic,
)
from tests.support.thorough import cover

ROUNDS = 40
LR, WD, BETA, MU = 0.05, 0.01, 0.8, 0.7
UNBALANCED: Table = {"name": "random-directed", "p": 0.25}
Gossip = Callable[[Matrix, Matrix], Matrix]  # (W, X after the local steps) -> X after mixing


def algorithm_of(planned: str) -> str:
    """The name of a planned case's algorithm."""
    given = PLANNED[planned][0]
    return given if isinstance(given, str) else str(given["name"])


def qgm(**parameters: float | bool) -> Table:
    """The optimizer."""
    return {"name": "qg-momentum", "lr": LR, "beta": BETA, "mu": MU, **parameters}


def gradients(problem: Problem, X: Matrix) -> Matrix:
    """Row i: A_i^T (A_i x_i - b_i) / m."""
    triples = zip(problem.A, problem.b, X, strict=True)
    return np.array([a.T @ (a @ x - b) / len(b) for a, b, x in triples])


def mixing(W: Matrix, X: Matrix) -> Matrix:
    return W @ X


def choco(gamma: float) -> Gossip:
    """Fresh, top-k: X + gamma (W - I) X_hat."""
    hat: list[Matrix] = []

    def gossip(W: Matrix, X: Matrix) -> Matrix:
        before = hat.pop() if hat else np.zeros_like(X)
        hat.append(before + np.array([reference.top_k(0.25)(row) for row in X - before]))
        return X + gamma * (W - np.eye(len(X))) @ hat[0]

    return gossip


def expected(
    problem: Problem, W: Matrix, mix: Gossip, nesterov: bool, T: int, push: bool = False
) -> Matrix:
    """All peers' models after ROUNDS rounds, as published: one buffer m and T steps a round."""
    X, M, u = problem.x0, np.zeros_like(problem.x0), np.ones((problem.peers, 1))
    for _ in range(ROUNDS):
        before = X / u
        for _ in range(T):
            G = gradients(problem, X / u) + WD * X / u
            V = BETA * M + G
            X = X - LR * (G + BETA * V if nesterov else V)
        X, u = mix(W, X), W @ u if push else u
        M = MU * M + (1 - MU) * (before - X / u) / (T * LR)
    return X / u


CHOCO: Table = {"name": "choco-sgd", "gamma": 0.3, "compressor": {"name": "top-k", "keep": 0.25}}
CASES: dict[str, tuple[Table | str, Table | str, Callable[[], Gossip]]] = {
    "d-psgd": ("d-psgd", "ring", lambda: mixing),
    "all-reduce": ("all-reduce", "complete", lambda: mixing),
    "choco-sgd": (CHOCO, "ring", lambda: choco(0.3)),
    "sgp": ("sgp", {**UNBALANCED, "weights": "out-degree"}, lambda: mixing),
}


@pytest.mark.parametrize(
    ("name", "T", "nesterov"),
    cover(
        itertools.product(CASES, [1, 3], [False, True]),
        lambda name, _, nesterov: (name, nesterov),
        lambda _, T, nesterov: (T, nesterov),
    ),
)
def test_every_gossip_as_published(name: str, T: int, nesterov: bool, tmp_path: Path) -> None:
    algorithm, topology, mix = CASES[name]
    problem = quadratics(6, same_start=name == "all-reduce")
    if name == "all-reduce":  # every step is a mean: what T steps of one model do
        T = 1
    ran = run_quadratic(
        problem,
        tmp_path,
        algorithm,
        topology=topology,
        rounds=ROUNDS,
        local_steps=T,
        optimizer=qgm(nesterov=nesterov, weight_decay=WD),
    )
    wanted = expected(problem, ran.weights[0], mix(), nesterov, T, push=name == "sgp")
    assert difference(ran.x, wanted) <= 1e-12


@pytest.mark.parametrize("nesterov", [False, True], ids=["heavy", "nesterov"])
@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_i15_beta_0_is_sgd_for_any_mu(mu: float, nesterov: bool, tmp_path: Path) -> None:
    problem = quadratics(6)
    optimizer = qgm(beta=0.0, mu=mu, nesterov=nesterov)
    one = run_quadratic(problem, tmp_path, "d-psgd", rounds=ROUNDS, optimizer=optimizer)
    other = run_quadratic(problem, tmp_path, "d-psgd", rounds=ROUNDS, optimizer={"lr": LR})
    assert difference(one.x, other.x) <= 1e-12


@pytest.mark.parametrize(
    "name",
    cover(((name,) for name in sorted(PLANNED)), algorithm_of),
)
def test_i15_beta_0_is_sgd_with_every_algorithm(name: str, tmp_path: Path) -> None:
    algorithm, topology = PLANNED[name]
    found = []
    for optimizer in ({"name": "qg-momentum", "beta": 0.0}, {"name": "sgd"}):
        table = experiment(algorithm, topology, rounds=3)
        table["learning"]["optimizer"] = optimizer
        found.append(run_in_threads(table, tmp_path).x.tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize(("topology", "n"), [("ring", 1), ("complete", 5)])
def test_i15_alone_it_is_qhm(topology: str, n: int, tmp_path: Path) -> None:
    # alpha = lr / (1 - beta), B = 1 - (1 - mu)(1 - beta), nu = beta / B, M <- B M + (1 - B) g
    problem = quadratics(1)
    problem = Problem(*(np.repeat(part, n, axis=0) for part in (problem.A, problem.b, problem.x0)))
    alpha, B = LR / (1 - BETA), 1 - (1 - MU) * (1 - BETA)
    nu = BETA / B
    x, M = problem.x0, np.zeros_like(problem.x0)
    for _ in range(ROUNDS):
        g = gradients(problem, x)
        M = B * M + (1 - B) * g
        x = x - alpha * (nu * M + (1 - nu) * g)
    options: Table = {"topology": topology, "rounds": ROUNDS, "optimizer": qgm()}
    assert difference(run_quadratic(problem, tmp_path, "d-psgd", **options).x, x) <= 1e-12


def test_i15_split_form(tmp_path: Path) -> None:
    # beta = mu: m <- beta m + (1 - beta) dir, after gossip m <- m - (1 - beta) change / lr
    problem, W = quadratics(6), reference.ring(6)
    X, M = problem.x0, np.zeros_like(problem.x0)
    for _ in range(ROUNDS):
        direction = BETA * M + gradients(problem, X)
        M = BETA * M + (1 - BETA) * direction
        half = X - LR * direction
        X = W @ half
        M = M - (1 - BETA) * (X - half) / LR
    options: Table = {"rounds": ROUNDS, "optimizer": qgm(mu=BETA)}
    assert difference(run_quadratic(problem, tmp_path, "d-psgd", **options).x, X) <= 1e-12


def test_weights_of_push_sum_that_settle_are_no_momentum(tmp_path: Path) -> None:
    # Equal models and no gradients: nothing may move, although all numerators do.
    problem = gossip(6)
    same = Problem(problem.A, problem.b, np.repeat(problem.x0[:1], 6, axis=0))
    ran = run_quadratic(
        same,
        tmp_path,
        "sgp",
        topology={**UNBALANCED, "weights": "out-degree"},
        rounds=ROUNDS,
        optimizer=qgm(),
    )
    assert np.ptp(ran.weights[0].sum(axis=1)) > 0.1
    assert difference(ran.x, same.x0) <= 1e-12
