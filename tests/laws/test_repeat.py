"""The same experiment gives the same bits, and virtual time is what one computes by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.runs import Run, Table, quadratic_table, quadratics, run_in_threads, run_mpi

TOLERANCE = 1e-12
# Everything that draws random numbers, together: split, start, minibatches, compressor, time.
RANDOM: Table = {
    "name": "repeat",
    "seed": 5,
    "peers": 4,
    "rounds": 12,
    "data": {
        "name": "digits",
        "partition": {"name": "skew", "s": 0.6},
        "batch_size": 8,
    },
    "model": {"name": "mlp", "hidden": [16]},
    "learning": {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
    "algorithm": {
        "name": "choco-sgd",
        "gamma": 0.2,
        "compressor": {"name": "qsgd", "bits": 3, "biased": True},
    },
    "topology": {"name": "erdos-renyi", "p": 0.7},
    "time": {
        "compute": {"name": "shifted-exponential", "shift": 0.05, "mean": 0.02, "period": 2},
        "link": {"latency": 1e-4, "bandwidth": 1e6},
    },
    "eval": {"every": 3, "samples": 50},
}
SPEEDS = """
from p2psim.registry import plugin

@plugin("compute", "by-rank")
class ByRank:
    def bind(self, setting):
        pass

    def seconds(self, rank, step):
        return 1.0 + rank
"""
SECOND: Table = {"name": "constant", "seconds_per_step": 1.0}


@pytest.mark.parametrize(
    "algorithm",
    [
        RANDOM["algorithm"],
        {**RANDOM["algorithm"], "variant": "stale"},
        {"name": "deep-squeeze", "gamma": 0.1, "compressor": {"name": "random-k", "keep": 0.2}},
        {"name": "d-psgd", "order": "cta"},
        {"name": "sgp"},
        {"name": "all-reduce"},
        {"name": "isolated"},
    ],
    ids=["choco-fresh", "choco-stale", "deep-squeeze", "cta", "sgp", "all-reduce", "isolated"],
)
def test_the_same_experiment_gives_the_same_bits(algorithm: Table, tmp_path: Path) -> None:
    table = {**RANDOM, "algorithm": algorithm}
    one, other = run_in_threads(table, tmp_path), run_in_threads(table, tmp_path)
    assert one.datasets() == other.datasets()
    assert one.weights.tobytes() == other.weights.tobytes()


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    table = {**RANDOM, "topology": "ring"}  # so that nothing differs by the graph alone
    one, other = (run_in_threads({**table, "seed": seed}, tmp_path) for seed in (5, 6))
    for name in ("final/x", "train/loss", "train/time", "eval/loss", "eval/accuracy"):
        assert one.datasets()[name] != other.datasets()[name], name


def test_threads_and_mpi_give_the_same_bits(tmp_path: Path) -> None:
    table: Table = {**RANDOM, "rounds": 4, "peers": 3, "topology": {"name": "ring"}}
    mpi, said = run_mpi(table, tmp_path)
    assert "done" in said
    assert mpi.datasets() == run_in_threads(table, tmp_path).datasets()


def timed(
    folder: Path, algorithm: str | Table, time: Table, d: int = 8, **options: Any
) -> NDArray[np.float64]:
    """train/time of 4 peers on a ring that hold d float64 numbers, by (peer, round)."""
    (folder / "speeds.py").write_text(SPEEDS)
    options = {"rounds": 5, **options}
    table = quadratic_table(quadratics(4, d=d), folder, algorithm, time=time, **options)
    run: Run = run_in_threads(table, folder)
    return run.train["time"]


def link(seconds: float, d: int = 8) -> Table:
    """A link over which d float64 numbers take `seconds`: half of it latency."""
    return {"latency": seconds / 2, "bandwidth": 8 * d / (seconds / 2)}


def test_time_of_d_psgd_atc_by_hand(tmp_path: Path) -> None:
    # The peers of the ring 0-1-2-3 compute for 1, 2, 3, 4 s; a message takes 0.5 s. Whoever mixes
    # has waited for both neighbors: now_i = max(now_i, now_{i-1} + 0.5, now_{i+1} + 0.5).
    got = timed(tmp_path, "d-psgd", {"compute": "speeds.py:ByRank", "link": link(0.5)}, rounds=3)
    by_hand = [
        [4.5, 3.5, 4.5, 4.0],  # local phase ends at 1, 2, 3, 4
        [8.5, 8.0, 8.5, 8.0],  # at 5.5, 5.5, 7.5, 8
        [12.5, 12.0, 12.5, 12.0],  # at 9.5, 10, 11.5, 12
    ]
    assert np.abs(got.T - by_hand).max() <= TOLERANCE


def test_time_of_local_and_consensus_steps(tmp_path: Path) -> None:
    got = timed(
        tmp_path,
        "d-psgd",
        {"compute": SECOND, "link": link(0.25)},
        local_steps=3,
        consensus_steps=2,
    )
    assert np.abs(got - 3.5 * np.arange(1, 6)).max() <= TOLERANCE


@pytest.mark.parametrize("transfer", [0.4, 3.0])
def test_time_of_what_overlaps_and_what_does_not(transfer: float, tmp_path: Path) -> None:
    time, r = {"compute": SECOND, "link": link(transfer)}, np.arange(1, 6)
    longer = max(1.0, transfer)
    # Stale: what was posted in round r is needed in round r + 1, after the next gradient.
    stale = timed(tmp_path, {"name": "choco-sgd", "variant": "stale"}, time)
    assert np.abs(stale - (1 + (r - 1) * longer)).max() <= TOLERANCE
    cta = timed(tmp_path, {"name": "d-psgd", "order": "cta"}, time)
    assert np.abs(cta - r * longer).max() <= TOLERANCE
    for algorithm in ({"name": "choco-sgd"}, {"name": "deep-squeeze"}, {"name": "d-psgd"}):
        fresh = timed(tmp_path, algorithm, time)
        assert np.abs(fresh - r * (1 + transfer)).max() <= TOLERANCE


def test_time_of_push_sum_and_of_a_compressed_message(tmp_path: Path) -> None:
    time, r = {"compute": SECOND, "link": {"latency": 0.125, "bandwidth": 64.0}}, np.arange(1, 6)
    sgp = timed(tmp_path, "sgp", time)  # 8 numbers and the weight
    assert np.abs(sgp - r * (1 + 0.125 + 9 * 8 / 64)).max() <= TOLERANCE
    top = {"name": "choco-sgd", "compressor": {"name": "top-k", "k": 3}}
    sparse = timed(tmp_path, top, time)  # 3 numbers of 8 bytes, 3 indices of 4
    assert np.abs(sparse - r * (1 + 0.125 + 3 * 12 / 64)).max() <= TOLERANCE


def test_time_of_all_reduce(tmp_path: Path) -> None:
    # Each of the 4 peers owns 2 of the 8 numbers: 16 bytes there and 16 bytes back, one after the
    # other, for x at the start and for the gradient of every step.
    half = 0.125 + 16 / 64
    got = timed(
        tmp_path,
        "all-reduce",
        {"compute": SECOND, "link": {"latency": 0.125, "bandwidth": 64.0}},
        local_steps=2,
    )
    wanted = 2 * half + np.arange(1, 6) * 2 * (1 + 2 * half)
    assert np.abs(got - wanted).max() <= TOLERANCE


def test_without_time_the_clock_stands_still(tmp_path: Path) -> None:
    assert not timed(tmp_path, "d-psgd", {}).any()


def test_evaluation_takes_no_time(tmp_path: Path) -> None:
    time = {"compute": SECOND, "link": link(0.5)}
    often = timed(tmp_path, "d-psgd", time, eval={"every": 1})
    rarely = timed(tmp_path, "d-psgd", time, eval={"every": 5})
    assert often.tobytes() == rarely.tobytes()
