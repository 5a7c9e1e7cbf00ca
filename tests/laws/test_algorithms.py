"""Every algorithm, run for real, against its matrix form in tests/support/reference.py.

A new algorithm needs an entry in `reference.ALGORITHMS` and in `CASES`; without them a test fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim import registry
from p2psim.errors import InputError
from p2psim.experiment import scenario
from tests.support import reference, reference_time
from tests.support.reference import Matrix
from tests.support.runs import (
    Problem,
    Table,
    difference,
    quadratic_table,
    quadratics,
    run_quadratic,
)
from tests.support.thorough import THOROUGH, cover

ROUNDS = 100 if THOROUGH else 25
MATCHINGS = """
import networkx as nx

def graph(n):
    steps = []
    for first in (0, 1):
        made = nx.empty_graph(n)
        made.add_edges_from((i, (i + 1) % n) for i in range(first, n, 2))
        steps.append(made)
    return steps
"""


def matchings(n: int) -> list[Matrix]:
    """What MATCHINGS draws: pairs that average, in two steps by turns."""
    steps = []
    for first in (0, 1):
        linked = np.zeros((n, n))
        for i in range(first, n, 2):
            linked[i, (i + 1) % n] = linked[(i + 1) % n, i] = 1
        steps.append(reference.metropolis(linked))
    return steps


@dataclass(frozen=True)
class Graph:
    """A topology table, and W by a formula of this test: from n and who is linked to whom."""

    table: Table
    n: int
    weights: Callable[[int, Matrix], Sequence[Matrix]]
    holds: frozenset[str]  # of Algorithm.requires


EVERY = frozenset({"row-stochastic", "column-stochastic", "doubly-stochastic"})
UNBALANCED = {"name": "random-directed", "p": 0.25}
GRAPHS = {
    "complete": Graph(
        {"name": "complete"},
        6,
        lambda n, _: [reference.complete(n)],
        EVERY | {"symmetric", "static"},
    ),
    "ring": Graph(
        {"name": "ring"}, 8, lambda n, _: [reference.ring(n)], EVERY | {"symmetric", "static"}
    ),
    "directed-ring": Graph(
        {"name": "directed-ring"}, 7, lambda n, _: [reference.directed_ring(n)], EVERY | {"static"}
    ),
    "one-peer-exponential": Graph(
        {"name": "one-peer-exponential"}, 8, lambda n, _: reference.one_peer_exponential(n), EVERY
    ),
    "matchings": Graph(
        {"file": "matchings.py"}, 6, lambda n, _: matchings(n), EVERY | {"symmetric"}
    ),
    "unbalanced-push": Graph(
        {**UNBALANCED, "weights": "out-degree"},
        7,
        lambda _, linked: [reference.out_degree(linked)],
        frozenset({"column-stochastic", "static"}),
    ),
    "unbalanced-pull": Graph(
        {**UNBALANCED, "weights": "uniform-neighbor"},
        7,
        lambda _, linked: [reference.in_degree(linked)],
        frozenset({"row-stochastic", "static"}),
    ),
}

# Rates so small that after ROUNDS rounds x still depends on every step taken.
PLAIN: dict[str, Any] = {"lr": 0.02}
HEAVY = {"momentum": 0.8, "weight_decay": 0.01, "lr": 0.01}
NESTEROV = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.003, "lr": 0.005}


@dataclass(frozen=True)
class Case:
    """Parameters of an algorithm and the local optimizer, T and S to run it with."""

    options: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    T: int = 1
    S: int = 1
    gamma: float | None = None
    compressor: Table | None = None
    timed: bool = False  # its result depends on the clock

    def algorithm(self, name: str) -> Table:
        """The section [algorithm]."""
        made = {"name": name, **self.options}
        if self.gamma is not None:
            made["gamma"] = self.gamma
        if self.compressor is not None:
            made["compressor"] = self.compressor
        return made

    def setup(
        self, name: str, problem: Problem, weights: Sequence[Matrix], times: Matrix
    ) -> reference.Setup:
        """The same for the oracle."""
        named = dict(self.compressor or {"name": "identity"})
        return reference.Setup(
            problem.A,
            problem.b,
            problem.x0,
            weights,
            rounds=ROUNDS,
            local_steps=self.T,
            consensus_steps=self.S,
            gamma=1.0 if self.gamma is None else self.gamma,
            compress=reference.COMPRESSORS[named.pop("name")](**named),
            options={"method": name, **self.options},
            times=times,
            **self.optimizer,
        )


TOP = {"name": "top-k", "keep": 0.25}
SIGN, AFFINE, IDENTITY = {"name": "sign"}, {"name": "affine-8"}, {"name": "identity"}
FRESH, STALE = {"variant": "fresh"}, {"variant": "stale"}
PUSH = {"push_sum": True}
# By form: the algorithm's name, and where it has more forms than one what tells them apart.
CASES: dict[str, list[Case]] = {
    "isolated": [Case(optimizer=HEAVY), Case(optimizer=NESTEROV, T=3)],
    "all-reduce": [Case(optimizer=HEAVY), Case(optimizer=NESTEROV, T=3)],
    "d-psgd": [
        Case({"order": "atc"}, HEAVY),
        Case({"order": "atc"}, NESTEROV, T=3, S=2),
        Case({"order": "cta"}, HEAVY),
        Case({"order": "cta"}, NESTEROV, T=2, S=3),
    ],
    "choco-sgd": [
        Case(FRESH, HEAVY, gamma=0.7, compressor=IDENTITY),
        Case(FRESH, PLAIN, gamma=0.2, compressor=TOP, T=2, S=2),
        Case(FRESH, NESTEROV, gamma=0.2, compressor=SIGN),
        Case(FRESH, HEAVY, gamma=0.5, compressor=AFFINE),
        Case(STALE, NESTEROV, gamma=0.4, compressor=IDENTITY, T=2),
        Case(STALE, HEAVY, gamma=0.2, compressor=TOP, S=3),
        Case(STALE, PLAIN, gamma=0.2, compressor=SIGN),
        Case(STALE, HEAVY, gamma=0.4, compressor=AFFINE),
    ],
    "deep-squeeze": [
        Case({}, HEAVY, gamma=0.7, compressor=IDENTITY, T=2, S=2),
        Case({}, PLAIN, gamma=0.1, compressor=TOP),
        Case({}, NESTEROV, gamma=0.1, compressor=SIGN),
        Case({}, HEAVY, gamma=0.4, compressor=AFFINE),
    ],
    "sgp": [Case({}, HEAVY), Case({}, NESTEROV, T=2, S=2)],
    "p2pl": [
        Case({}, HEAVY, T=3),
        Case({"eta_d": 0.5, "sync_rounds": 1}, NESTEROV, T=2, S=3),
        Case({"eta_d": 0.2, "affinity_ref": "pre"}, HEAVY, T=2),
        Case({"eta_d": 0.3, "epsilon": 0.6, "eta_b": 0.2}, PLAIN, T=2, S=2),
        Case({"eta_d": 0.9, "eta_b": 0.01, "bias": "printed"}, HEAVY, T=2, S=2),
    ],
    "p2pl unsynchronized": [
        Case({"sync_rounds": 0, "eta_d": 0.7}, HEAVY, T=2),
        Case({"sync_rounds": 0, "eta_d": 0.1, "affinity_ref": "pre"}, PLAIN, T=4, S=2),
    ],
    "full-sgd": [Case({}, HEAVY), Case({}, NESTEROV, T=2, timed=True)],
    "k-sgd": [
        Case({"k": 2}, HEAVY, timed=True),
        Case({"k": 3, "warmup_rounds": 5}, NESTEROV, T=2, timed=True),
    ],
    "lgc-sgd": [
        Case({"k": 2, "partial": "timing"}, HEAVY, timed=True),
        Case({"k": 2, "partial": "timing", "scaling": False, "blocks": 9}, PLAIN, timed=True),
        Case({"k": 2, "partial": "finish", "warmup_rounds": 5}, NESTEROV, T=2, timed=True),
        Case({"k": 1, "partial": 2, "blocks": 3}, HEAVY, timed=True),
        Case({"k": 5}, HEAVY, timed=True),
    ],
    "async-gossip": [
        Case({"window": 0.7}, HEAVY, timed=True),
        Case({"window": 1.0}, NESTEROV, T=2, timed=True),
    ],
    "choco-sgd push-sum": [
        Case(FRESH | PUSH, HEAVY, gamma=1.0, compressor=IDENTITY, T=2, S=2),
        Case(FRESH | PUSH, PLAIN, gamma=0.2, compressor=TOP),
        Case(FRESH | PUSH, NESTEROV, gamma=0.2, compressor=SIGN),
        Case(FRESH | PUSH, HEAVY, gamma=0.5, compressor=AFFINE, S=2),
        Case(STALE | PUSH, NESTEROV, gamma=0.4, compressor=IDENTITY, T=2),
        Case(STALE | PUSH, PLAIN, gamma=0.2, compressor=TOP, S=3),
    ],
    "deep-squeeze push-sum": [
        Case(PUSH, HEAVY, gamma=0.7, compressor=IDENTITY, T=2, S=2),
        Case(PUSH, PLAIN, gamma=0.1, compressor=TOP),
        Case(PUSH, NESTEROV, gamma=0.1, compressor=SIGN),
        Case(PUSH, HEAVY, gamma=0.4, compressor=AFFINE),
    ],
}
# What each algorithm asks of W: written down a second time on purpose.
NEEDS: dict[str, set[str]] = {
    "isolated": set(),
    "all-reduce": set(),
    "d-psgd": {"row-stochastic"},
    "choco-sgd": {"doubly-stochastic", "symmetric", "static"},
    "deep-squeeze": {"doubly-stochastic", "symmetric"},
    "sgp": {"column-stochastic"},
    "p2pl": {"row-stochastic", "static"},
    "p2pl unsynchronized": {"row-stochastic"},
    "full-sgd": {"doubly-stochastic", "symmetric", "static"},
    "k-sgd": {"doubly-stochastic", "symmetric", "static"},
    "lgc-sgd": {"doubly-stochastic", "symmetric", "static"},
    "async-gossip": {"row-stochastic", "static"},
    "choco-sgd push-sum": {"column-stochastic", "static"},
    "deep-squeeze push-sum": {"column-stochastic"},
}
ORACLES = {**reference.ALGORITHMS, **reference_time.ALGORITHMS}
WITHOUT_NETWORK = {"isolated", "all-reduce"}  # their result does not depend on the graph


def registered() -> list[str]:
    """The algorithms of the package; plug-ins that other tests load from files are not meant."""
    known = registry.names("algorithm").items()
    return sorted(name for name, cls in known if cls.__module__.startswith("p2psim."))


def named(form: str) -> str:
    """The algorithm of a form."""
    return form.partition(" ")[0]


def fits(form: str, graph: str) -> bool:
    return NEEDS[form] <= GRAPHS[graph].holds


def runs() -> list[tuple[str, int, str]]:
    """(form, number of the case, graph) of all that can be run."""
    return [
        (form, number, graph)
        for form in CASES
        for number in range(len(CASES[form]))
        for graph in (["ring"] if form in WITHOUT_NETWORK else GRAPHS)
        if fits(form, graph)
    ]


def outcome(
    folder: Path, form: str, number: int, graph: str, dtype: str
) -> tuple[float, reference.Setup]:
    """Relative difference between p2psim and the oracle after ROUNDS rounds, and its setup."""
    (folder / "matchings.py").write_text(MATCHINGS)
    case, drawn = CASES[form][number], GRAPHS[graph]
    times = np.random.default_rng(number).exponential(0.3, (drawn.n, 60)) + 0.05
    time = write_times(times, folder) if case.timed else {}
    problem = quadratics(drawn.n, seed=100 * number + drawn.n)
    ran = run_quadratic(
        problem,
        folder,
        case.algorithm(named(form)),
        topology=drawn.table,
        rounds=ROUNDS,
        optimizer=case.optimizer,
        local_steps=case.T,
        consensus_steps=case.S,
        dtype=dtype,
        time=time,
    )
    assert ran.x.dtype == dtype
    weights = drawn.weights(drawn.n, (ran.weights[0] != 0).astype(float))
    setup = case.setup(named(form), problem, weights, times)
    wanted = ORACLES[named(form)](setup)
    assert np.isfinite(wanted).all()
    return difference(ran.x, wanted), setup


def write_times(times: Matrix, folder: Path) -> Table:
    """[time] by which peer i's step t takes times[i, t]."""
    rows = [f"{i},{float(seconds)!r}" for i, own in enumerate(times) for seconds in own]
    (folder / "times.csv").write_text("\n".join(["peer,seconds", *rows]))
    return {"compute": {"name": "trace", "file": "times.csv"}}


def moved_by_rounding(name: str, setup: reference.Setup) -> float:
    """How far roundings as large as those of float32 move the oracle's own result."""
    exact = ORACLES[name](setup)
    shaken = [replace(setup, rounding=np.random.default_rng(seed)) for seed in range(12)]
    return max(difference(ORACLES[name](one), exact) for one in shaken)


@pytest.mark.parametrize("name", registered())
def test_every_algorithm_has_an_oracle(name: str) -> None:
    for table in (ORACLES, CASES, NEEDS):
        assert name in table, (
            f"add algorithm {name!r} to tests/support/reference.py, CASES and NEEDS"
        )


@pytest.mark.parametrize(
    ("form", "number", "graph"),
    cover(runs(), lambda form, number, _: (form, number), lambda form, _, graph: graph),
)
def test_agrees_with_the_oracle_in_float64(
    form: str, number: int, graph: str, tmp_path: Path
) -> None:
    deviation, _ = outcome(tmp_path, form, number, graph, "float64")
    assert deviation <= 1e-10


@pytest.mark.parametrize(
    ("form", "number", "graph"),
    cover(
        (
            (form, number, graph)
            for form, number, graph in runs()
            if graph in ("ring", "unbalanced-push") and not (CASES[form][number].timed and number)
        ),
        lambda form, *_: form,
        lambda form, number, _: str(CASES[form][number].compressor),
    ),
)
def test_agrees_with_the_oracle_in_float32(
    form: str, number: int, graph: str, tmp_path: Path
) -> None:
    deviation, setup = outcome(tmp_path, form, number, graph, "float32")
    # A compressor that chooses or rounds can turn one float32 rounding into another choice. Where
    # that moves the oracle itself by more than 1e-4, no float32 run can be asked for less.
    assert deviation <= 1e-4 or deviation <= 3 * moved_by_rounding(named(form), setup)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("form", CASES)
def test_a_mixing_matrix_that_does_not_fit_is_refused(
    form: str, graph: str, tmp_path: Path
) -> None:
    (tmp_path / "matchings.py").write_text(MATCHINGS)
    problem = quadratics(GRAPHS[graph].n)
    algorithm = CASES[form][0].algorithm(named(form))
    time = {"compute": "constant"}
    table = quadratic_table(problem, tmp_path, algorithm, topology=GRAPHS[graph].table, time=time)
    if fits(form, graph):
        scenario.load(table, tmp_path)
        return
    with pytest.raises(InputError, match=f"{named(form)}.* needs a .* mixing matrix"):
        scenario.load(table, tmp_path)


def test_the_unbalanced_graphs_are_unbalanced(tmp_path: Path) -> None:
    table = quadratic_table(
        quadratics(7), tmp_path, "sgp", topology=GRAPHS["unbalanced-push"].table
    )
    W = scenario.load(table, tmp_path).topology.at(0)
    assert np.ptp((W != 0).sum(axis=0)) > 0
    assert np.abs(W.sum(axis=1) - 1).max() > 0.1


def test_the_rows_say_what_the_models_are(tmp_path: Path) -> None:
    problem = quadratics(6)
    run = run_quadratic(problem, tmp_path, "d-psgd", rounds=7)

    def loss(i: int, x: Matrix) -> float:
        return float(((problem.A[i] @ x - problem.b[i]) ** 2).mean() / 2)

    first = [loss(i, x) for i, x in enumerate(problem.x0)]
    assert difference(run.train["loss"][:, 0], np.array(first)) <= 1e-12
    everywhere = [np.mean([loss(j, x) for j in range(6)]) for x in run.x]
    assert difference(run.eval["loss"][:, -1], np.array(everywhere)) <= 1e-12
    spread = np.sqrt(((run.x - run.x.mean(axis=0)) ** 2).sum() / 6)
    assert difference(run.eval["consensus_distance"][:, -1], np.full(6, spread)) <= 1e-12
    assert run.eval["phase"].tolist() == [[0, 1]] * 6
    assert run.train["step"].tolist() == run.train["epoch"].tolist() == [[*range(1, 8)]] * 6
