"""What the two evaluations of a round tell: oscillation; and rounds until a target is reached."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2psim.analysis.results import Array, Run


class Curve(NamedTuple):
    """A column of /eval after one phase: rounds from 1, and the values, shape (n, len(rounds))."""

    rounds: NDArray[np.int64]
    values: Array


class Oscillation(NamedTuple):
    """Mean rise at consensus and mean fall at local learning, over rounds and peers."""

    rise: float
    fall: float


def curve(run: Run, phase: int, name: str = "accuracy") -> Curve:
    """A column after local (0) or consensus (1); NaN where a row is missing or has diverged."""
    rows = run.rows(phase)
    sound = np.isfinite(run.eval["loss"][:, rows])  # else what it predicts is one class
    values = np.where(sound, run.eval[name][:, rows], np.nan)
    return Curve(np.nanmax(run.eval["round"][:, rows], axis=0).astype(int), values)


def last_alike(run: Run) -> int:
    """The last round that is tested on the same samples as those before it."""
    rounds: int = run.train["round"].shape[1]
    return rounds - ("samples" in run.experiment["eval"])


def oscillation(
    run: Run, name: str = "accuracy", first: int = 1, last: int | None = None
) -> Oscillation:
    """How a measure of the models moves within the rounds first..last.

    last: the last of the run, or the one before where only the last is tested on all samples.

    rise: after consensus of round r less after local of r. fall: after consensus of r - 1 less
    after local of r, where both were evaluated. NaN where there is no such pair; peers without a
    value, such as unseen accuracy where all is seen, do not count.
    """
    last = last or last_alike(run)
    before, after = curve(run, 0, name), curve(run, 1, name)
    inside = (before.rounds >= first) & (before.rounds <= last)
    local = Curve(before.rounds[inside], before.values[:, inside])
    return Oscillation(rise=moved(local, after, 0), fall=moved(local, after, 1))


def moved(local: Curve, consensus: Curve, lag: int) -> float:
    """Mean of what a model has after consensus of round r - lag more than after local of r."""
    _, here, there = np.intersect1d(local.rounds - lag, consensus.rounds, return_indices=True)
    change = consensus.values[:, there] - local.values[:, here]
    change = change[np.isfinite(change)]
    return float(change.mean()) if change.size else float("nan")


def rounds_to(run: Run, target: float, name: str = "accuracy", phase: int = 1) -> int | None:
    """Evaluated rounds until every peer has once reached `target`; None if one never has."""
    found = curve(run, phase, name)
    reached = found.values >= target
    if not reached.any(axis=1).all():
        return None
    return int(found.rounds[reached.argmax(axis=1).max()])  # argmax: the first
