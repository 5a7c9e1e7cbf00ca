"""Methods that look at the clock: identities of LGC-SGD, real cut-offs, asynchronous gossip."""

from __future__ import annotations

from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from p2psim.errors import InputError
from p2psim.experiment import forecast, plan, scenario
from p2psim.learning.schedules import Cosine
from tests.laws.test_algorithms import write_times
from tests.support import reference, reference_time
from tests.support.runs import (
    Problem,
    Run,
    Table,
    difference,
    quadratic_table,
    quadratics,
    run_in_threads,
    run_quadratic,
)
from tests.support.thorough import THOROUGH

N, K, BLOCKS = 10, 7, 4
RACE: Table = {"compute": {"name": "shifted-exponential", "shift": 0.05, "mean": 0.02}}
LGC: Table = {"name": "lgc-sgd", "k": K, "blocks": BLOCKS, "partial": "timing"}
SHORT: Table = {"name": "constant", "seconds_per_step": 0.11}
HEAVY = {"momentum": 0.9, "weight_decay": 5e-4, "lr": 0.01}


def lgc(folder: Path, problem: Problem | None = None, rounds: int = 30, **options: Any) -> Run:
    """LGC-SGD on the complete graph of N peers, with these other parameters."""
    return run_quadratic(
        problem or quadratics(N, same_start=True),
        folder,
        {**LGC, **options},
        topology="complete",
        rounds=rounds,
        optimizer=HEAVY,
        time=RACE,
    )


def test_all_of_all_is_full_sgd_and_all_reduce(tmp_path: Path) -> None:
    """I16: k = n is Full-SGD, and both are the mean gradient's SGD on one model."""
    problem = quadratics(N, same_start=True)
    options: Table = {"topology": "complete", "rounds": 30, "optimizer": HEAVY, "time": RACE}
    whole = lgc(tmp_path, problem, k=N)
    full = run_quadratic(problem, tmp_path, "full-sgd", **options)
    reduced = run_quadratic(problem, tmp_path, "all-reduce", **options)
    assert difference(whole.x, full.x) <= 1e-12
    assert difference(full.x, reduced.x) <= 1e-12
    assert whole.train["time"].tobytes() == full.train["time"].tobytes()
    warm = lgc(tmp_path, problem, warmup_rounds=30)
    assert warm.x.tobytes() == whole.x.tobytes()


@pytest.mark.parametrize("partial", ["finish", "timing"])
def test_nothing_is_lost_and_nothing_counts_twice(
    partial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I16: e_t = gbar_t - g~_t, and sum g^_t = sum gbar_t - e of the last, at LGC's iterates."""
    from p2psim.algorithms.lgc_sgd import LGCSGD

    used: list[tuple[int, int, NDArray[Any], NDArray[Any]]] = []
    sent: dict[tuple[int, int], NDArray[Any]] = {}
    estimate, message = LGCSGD.estimate, LGCSGD.message

    def estimating(self: Any, g: Any, omega: float, before: Any) -> Any:
        mine = g.copy()  # which estimate may overwrite
        made = estimate(self, g, omega, before)
        used.append((self.own_rank, self.rounds, mine, made.copy()))
        return made

    def sending(self: Any, g: Any, r: int, net: Any) -> Any:
        self.own_rank = net.rank
        if hasattr(self, "blank"):  # else this is the blank
            sent[net.rank, self.rounds] = g.copy()
        return message(self, g, r, net)

    monkeypatch.setattr(LGCSGD, "estimate", estimating)
    monkeypatch.setattr(LGCSGD, "message", sending)
    rounds = 25
    lgc(tmp_path, partial=partial, rounds=rounds)
    mean = [np.mean([sent[i, t] for i in range(N)], axis=0) for t in range(1, rounds + 1)]
    mine = sorted((t, g, made) for rank, t, g, made in used if rank == 3)
    e = np.zeros_like(mean[0])
    for t, g, made in mine:
        assert difference(made, g + e) <= 1e-12
        e = mean[t - 1] - g
    total = np.sum([made for _, _, made in mine], axis=0)
    assert difference(total, np.sum(mean, axis=0) - e) <= 1e-11


def test_k_sgd_is_lgc_without_what_is_left(tmp_path: Path) -> None:
    """I16: K-SGD is LGC with e = 0 throughout: one iteration from the same x is the same."""
    problem = quadratics(N, same_start=True)
    one = lgc(tmp_path, problem, rounds=1)
    options: Table = {"topology": "complete", "optimizer": HEAVY, "time": RACE}
    k_sgd = {"name": "k-sgd", "k": K}
    other = run_quadratic(problem, tmp_path, k_sgd, rounds=1, **options)
    assert difference(one.x, other.x) <= 1e-12
    longer = run_quadratic(problem, tmp_path, k_sgd, rounds=30, **options)
    assert longer.train["time"].tobytes() == lgc(tmp_path, problem).train["time"].tobytes()


@pytest.mark.parametrize("graph", ["complete", "ring"])
@pytest.mark.parametrize("name", ["lgc-sgd", "k-sgd"])
def test_clocks_and_blocks_agree_with_the_oracle(name: str, graph: str, tmp_path: Path) -> None:
    problem, k = quadratics(N), {"complete": K, "ring": 2}[graph]
    times = np.random.default_rng(4).exponential(0.3, (N, 60)) + 0.05
    algorithm: Table = {**LGC, "k": k} if name == "lgc-sgd" else {"name": name, "k": k}
    run, weights = (
        run_quadratic(
            problem,
            tmp_path,
            algorithm,
            topology=graph,
            rounds=50,
            time=write_times(times, tmp_path),
        ),
        reference.complete(N) if graph == "complete" else reference.ring(N),
    )
    options = {"method": name, **{k: v for k, v in algorithm.items() if k != "name"}}
    setup = reference.Setup(
        problem.A, problem.b, problem.x0, [weights], rounds=50, options=options, times=times
    )
    x, clocks, finished = reference_time.fastest_k_clocks(setup)
    assert difference(run.x, x) <= 1e-10
    assert np.abs(run.train["time"] - clocks).max() <= 1e-12 * clocks.max()
    if name == "lgc-sgd":
        assert (run.algorithm["blocks_done"] == finished).all()


def test_what_was_not_finished_is_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples that go through the model are those of finished blocks; of K-SGD's slow: none."""
    from p2psim.learning.bp import Backpropagation

    seen = {"lgc-sgd": 0, "k-sgd": 0}
    gradient = Backpropagation.gradient
    name = ""

    def counting(self: Any, learner: Any, batch: Any) -> Any:
        seen[name] += len(batch.inputs)
        return gradient(self, learner, batch)

    monkeypatch.setattr(Backpropagation, "gradient", counting)
    problem, rounds = quadratics(N, same_start=True), 20
    rows = problem.b.shape[1]
    name = "lgc-sgd"
    run = lgc(tmp_path, problem, rounds=rounds)
    assert seen[name] == run.algorithm["blocks_done"].sum() * rows / BLOCKS
    assert seen[name] < N * rounds * rows
    name = "k-sgd"
    run_quadratic(
        problem,
        tmp_path,
        {"name": name, "k": K},
        topology="complete",
        rounds=rounds,
        time=RACE,
    )
    assert seen[name] == K * rounds * rows


def probabilities(draws: int = 200_000) -> dict[int, float]:
    """P(r) of a straggler by timing, from draws of this test's own."""
    random = np.random.default_rng(0)
    X = np.sort(0.05 + random.exponential(0.02, (draws, N)), axis=1)
    r = np.minimum(BLOCKS, np.floor(BLOCKS * X[:, K - 1 : K] / X[:, K:]))
    return {done: float((r == done).mean()) for done in range(BLOCKS + 1)}


@pytest.mark.thorough
def test_how_many_blocks_stragglers_finish(tmp_path: Path) -> None:
    """Section 12: r = 3, 2, 1 with .695, .275, .030."""
    known, claimed = probabilities(), {3: 0.695, 2: 0.275, 1: 0.030}
    assert max(abs(known[r] - share) for r, share in claimed.items()) < 3e-3
    rounds = 600 if THOROUGH else 200
    run = lgc(tmp_path, quadratics(N, d=4, same_start=True), rounds=rounds)
    slow = run.algorithm["blocks_done"][run.algorithm["among_fastest"] == 0]
    assert slow.size == (N - K) * rounds
    for r, wanted in claimed.items():
        # Three of one iteration are not independent: their mean has at most this deviation.
        deviation = np.sqrt(wanted * (1 - wanted) / rounds)
        assert abs((slow == r).mean() - wanted) <= 4 * deviation


@pytest.mark.parametrize("k", range(5, N + 1))
def test_forecast_and_run_have_the_same_clock(k: int, tmp_path: Path) -> None:
    """Bit for bit, so that a forecast of many more iterations stands for a run of them."""
    problem = quadratics(N, d=4, same_start=True)
    options: Table = {"topology": "complete", "time": RACE, "rounds": 30}
    table = quadratic_table(problem, tmp_path, {**LGC, "k": k}, **options)
    clock = run_in_threads(table, tmp_path).train["time"]
    known = forecast.by_algorithm(scenario.load(table, tmp_path))
    assert known
    assert known.rounds == 30
    assert (clock[:, -1] == known.seconds).all()


def test_the_plan_knows_how_long_the_fastest_take(tmp_path: Path) -> None:
    algorithm, problem = {**LGC, "warmup_rounds": 10}, quadratics(N, d=4, same_start=True)
    table = quadratic_table(problem, tmp_path, algorithm, topology="complete", time=RACE)
    run = run_in_threads(table, tmp_path)
    said = plan.plan(scenario.load(table, tmp_path))["virtual time"]
    assert said == f"{run.train['time'].max():,.6g} s"
    table["topology"] = "ring"
    said = plan.plan(scenario.load(table, tmp_path))["virtual time"]
    assert said == "depends on who waits for whom; only a run tells"


@pytest.mark.parametrize(
    ("algorithm", "time", "says"),
    [
        ({**LGC, "k": 11}, RACE, "k = 11: give at most 10"),
        ({**LGC, "k": 0}, RACE, "algorithm.k = 0"),
        ({"name": "lgc-sgd"}, RACE, "algorithm.k is missing"),
        (LGC, {}, "needs a compute model; give [time] compute"),
        ({**LGC, "blocks": 5}, RACE, "blocks = 5: does not divide a minibatch of 36 samples"),
        ({**LGC, "partial": 5}, RACE, "partial = 5: give at most blocks = 4"),
        ({**LGC, "partial": "timming"}, RACE, "'timing' or 'finish' or 'random'"),
        ({"name": "async-gossip"}, {}, "needs a compute model; give [time] compute"),
    ],
)
def test_what_is_refused(algorithm: Table, time: Table, says: str, tmp_path: Path) -> None:
    table = quadratic_table(quadratics(N), tmp_path, algorithm, topology="complete", time=time)
    with pytest.raises(InputError) as raised:
        scenario.load(table, tmp_path)
    assert says in str(raised.value)


@pytest.mark.thorough
def test_lots_are_drawn_from_one_to_all(tmp_path: Path) -> None:
    run = lgc(tmp_path, partial="random", rounds=200)
    slow = run.algorithm["blocks_done"][run.algorithm["among_fastest"] == 0]
    counts = np.array([(slow == r).sum() for r in range(1, BLOCKS + 1)])
    assert counts.sum() == slow.size == 3 * 200
    assert np.abs(counts / slow.size - 1 / BLOCKS).max() < 4 * np.sqrt(3 / 16 / slow.size)


def gossiping(folder: Path, algorithm: str | Table, rounds: int, **time: Any) -> Run:
    """A ring of 8 with one peer ten times as slow."""
    slow = {"name": "slow-peers", "peers": [3], "factor": 10.0}
    return run_quadratic(
        quadratics(8, seed=2),
        folder,
        algorithm,
        rounds=rounds,
        optimizer={"lr": 0.02},
        time={"compute": slow, **time},
        eval={"every": 1},
    )


def when_below(run: Run, level: float) -> float:
    """Virtual time of the last peer when the mean model loss is first at most `level`."""
    rows = run.eval["phase"][0] == 1
    loss = run.eval["loss"][:, rows].mean(axis=0)
    return float(run.eval["time"][:, rows].max(axis=0)[np.argmax(loss <= level)])


@pytest.mark.thorough
def test_gossip_that_waits_for_nobody_is_faster(tmp_path: Path) -> None:
    waiting = gossiping(tmp_path, "d-psgd", 12)
    free = gossiping(tmp_path, "async-gossip", 120)
    assert waiting.train["time"].max() == free.train["time"].max() == 120
    first = waiting.eval["loss"][:, 0].mean()
    level = 0.1 * first
    assert when_below(free, level) < 0.5 * when_below(waiting, level)
    assert gossiping(tmp_path, "async-gossip", 120).datasets() == free.datasets()


def test_staleness_by_hand(tmp_path: Path) -> None:
    """Equal peers see what was sent a step ago; the slow one's neighbors ever older models."""
    run = gossiping(tmp_path, {"name": "async-gossip", "window": 1.0}, 20, link={"latency": 0.25})
    age = run.algorithm["staleness"]
    assert (age[7, 1:] == 1).all()
    # Peer 3's neighbor mixes at t with a model of t - 1 and one of time 0 before 10.25, then 10.
    old = [t - (10 if t > 10.25 else 0) for t in range(2, 21)]
    assert np.allclose(age[2, 1:], [(1 + age) / 2 for age in old])
    assert (
        run.algorithm["mixes"][3] == [floor(t / 10) - floor((t - 1) / 10) for t in range(1, 21)]
    ).all()
    assert np.isnan(age[3, :9]).all()


@pytest.mark.parametrize("length", [{"rounds": 12}, {"epochs": 7.5}])
def test_epochs_of_rounds_that_end_by_the_clock(
    length: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan counts the steps of a mean peer, and a schedule runs once, alike on all peers."""
    asked: list[tuple[float, float]] = []

    def factor(self: Cosine, epoch: float, epochs: float) -> float:
        asked.append((epoch, epochs))
        return 1.0

    monkeypatch.setattr(Cosine, "factor", factor)
    table: Table = {
        "name": "clock",
        "peers": 4,
        **length,
        "data": {"name": "digits", "batch_size": 64},
        "model": "linear",
        "learning": {"local_steps": 2, "optimizer": {"name": "sgd", "schedule": "cosine"}},
        "algorithm": {"name": "async-gossip", "window": 2.0},
        "topology": "ring",
        "time": {"compute": {"name": "slow-peers", "of": SHORT, "peers": [3], "factor": 10.0}},
    }
    planned = scenario.load(table, tmp_path)
    run = run_in_threads(table, tmp_path)
    steps = run.train["step"][:, -1]
    assert steps.max() > 8 * steps.min()
    assert planned.epochs == pytest.approx(steps.mean() / planned.steps_per_epoch, rel=0.02)
    assert "epochs" not in length or 7.5 <= planned.epochs < 7.5 * (1 + 1.0 / (planned.rounds - 1))
    epochs = np.array([epoch for epoch, _ in asked])
    assert {total for _, total in asked} == {planned.epochs}
    assert len(epochs) == steps.sum()
    assert epochs.min() == 0
    assert 0.9 * planned.epochs < epochs.max() < planned.epochs
