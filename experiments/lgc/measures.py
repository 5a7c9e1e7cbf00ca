"""Setting of Xu 2021, and the measures that its drawings and claims share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.harness.measures import late_mean
from experiments.harness.reproduce import Runs
from p2psim.analysis.results import Array, Run

N, K = 10, 7  # peers, and peers that an iteration waits for
SHIFT, MEAN = 0.05, 0.02  # seconds of a step: constant part, mean of the exponential part
CLASSES = (1, 2, 3, 10)  # classes of a peer, figure 3
PERIODS = {"h1": "1", "h10": "10", "h50": "50", "always": "∞"}  # case -> h, figure 3
# Fraction of stragglers with r = floor(4 X_(7) / X_(j)) finished blocks of 4, j = 8, 9, 10.
FINISHED = {3: 0.695, 2: 0.275, 1: 0.030}


def expected_seconds(k: int) -> float:
    """Return the mean time (s) of the k fastest of N peers: shift + mean (H_N - H_{N-k})."""
    return SHIFT + MEAN * sum(1 / i for i in range(N - k + 1, N + 1))


def total_seconds(runs: Sequence[Run]) -> Array:
    """Return the virtual time (s) of the last peer at the end, for each seed."""
    return np.array([np.nanmax(run.train["time"]) for run in runs])


def iteration_seconds(runs: Sequence[Run], first: int = 0) -> Array:
    """Return the virtual time (s) of an iteration for each seed, without the rounds up to `first`.

    A round may have several iterations: the time is divided by local steps.
    """
    values = []
    for run in runs:
        time, step = run.train["time"].max(axis=0), run.train["step"][0]
        begin, skipped = (time[first - 1], step[first - 1]) if first else (0.0, 0)
        values.append((time[-1] - begin) / (step[-1] - skipped))
    return np.array(values)


def train_loss(runs: Sequence[Run], first: float = 0.5) -> Array:
    """Return the training loss, mean over peers and late rounds, for each seed.

    `first` is the fraction of the run's rounds that is skipped.
    """
    # Stragglers of K-SGD compute no loss: NaN.
    values = np.array([np.nanmean(run.train["loss"], axis=0) for run in runs])
    return np.asarray(values[:, int(first * values.shape[1]) :].mean(axis=1))


def test_accuracy(runs: Sequence[Run]) -> Array:
    """Return the test accuracy, mean over peers and the second half of the run, for each seed."""
    return late_mean(runs, "accuracy", 1)


def test_loss(runs: Sequence[Run]) -> Array:
    """Return the test loss, mean over peers and the second half of the run, for each seed.

    Figure 5 needs it in place of the training loss, which K-SGD does not have for stragglers.
    """
    return late_mean(runs, "loss", 1)


def finished_fractions(runs: Runs) -> dict[int, float]:
    """Return the fraction of stragglers with r = 0..4 finished blocks of 4, over all iterations."""
    ((run,),) = runs.values()
    blocks = run.own["blocks_done"][run.own["among_fastest"] == 0]
    return {r: float((blocks == r).mean()) for r in range(5)}


def seeds_of(runs: Runs, classes: int, method: str) -> list[Run]:
    """Return the runs, one for each seed, of a method with `classes` classes of a peer."""
    return runs[f"c={classes}-{method}"]
