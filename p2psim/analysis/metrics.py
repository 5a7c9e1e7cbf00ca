"""Metrics of a run's evaluations: oscillation within rounds, and rounds to reach a target."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2psim.analysis.results import Array, Run


class Curve(NamedTuple):
    """Column of /eval after one phase: rounds, from 1, and values, shape (n, len(rounds))."""

    rounds: NDArray[np.int64]
    values: Array


class Oscillation(NamedTuple):
    """Mean rise at consensus and mean fall at local learning, over rounds and peers."""

    rise: float
    fall: float


def curve(run: Run, phase: int, name: str = "") -> Curve:
    """Return a column of /eval, by default the primary one, after phase 0 (local) or 1 (consensus).

    Values are NaN where a row is missing or its loss is not finite.
    """
    rows = run.rows(phase)
    # A model that holds NaN predicts one class for all samples: its accuracy means nothing.
    valid = np.isfinite(run.eval["loss"][:, rows])
    values = np.where(valid, run.eval[name or run.primary][:, rows], np.nan)
    return Curve(np.nanmax(run.eval["round"][:, rows], axis=0).astype(int), values)


def last_alike(run: Run) -> int:
    """Return the last round that is evaluated on the same samples as the rounds before it.

    With eval.samples only the last round of the run is evaluated on the whole test set.
    """
    rounds: int = run.train["round"].shape[1]
    return rounds - ("samples" in run.experiment["eval"])


def oscillation(run: Run, name: str = "", first: int = 1, last: int | None = None) -> Oscillation:
    """Return the mean rise and fall of a column of /eval within the rounds first..last.

    rise = (after consensus of round r) - (after local of r); fall = (after consensus of r - 1) -
    (after local of r), over the rounds where both were evaluated. NaN if there is no such pair.
    Peers without a value do not count, for instance for unseen accuracy if they hold all classes.

    last: by default the last round, or the one before it, see `last_alike`.
    """
    last = last or last_alike(run)
    local, consensus = curve(run, 0, name), curve(run, 1, name)
    inside = (local.rounds >= first) & (local.rounds <= last)
    local = Curve(local.rounds[inside], local.values[:, inside])
    return Oscillation(
        rise=mean_difference(local, consensus, 0), fall=mean_difference(local, consensus, 1)
    )


def mean_difference(local: Curve, consensus: Curve, lag: int) -> float:
    """Return the mean of (after consensus of round r - lag) - (after local of r); NaN if none."""
    _, of_local, of_consensus = np.intersect1d(
        local.rounds - lag, consensus.rounds, return_indices=True
    )
    with np.errstate(invalid="ignore"):  # infinity - infinity, of a run that has diverged
        change = consensus.values[:, of_consensus] - local.values[:, of_local]
    change = change[np.isfinite(change)]
    return float(change.mean()) if change.size else float("nan")


def rounds_to(run: Run, target: float, name: str = "", phase: int = 1) -> int | None:
    """Return the round by which every peer has once reached `target`; None if one never has."""
    rounds, values = curve(run, phase, name)
    lower = run.better.get(name or run.primary, "higher") == "lower"
    reached = values <= target if lower else values >= target
    if not reached.any(axis=1).all():
        return None
    return int(rounds[reached.argmax(axis=1).max()])  # argmax: the first True of each peer
