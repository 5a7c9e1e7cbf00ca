"""Measures of runs that figures and claims of several papers share, over peers and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p2psim.analysis.metrics import Curve, curve, last_alike, oscillation
from p2psim.analysis.results import Array, Run


def mean_curve(runs: Sequence[Run], name: str, phase: int) -> Curve:
    """Return the mean of a measure over peers as a curve with one row for each seed.

    Final rounds that are evaluated on other test samples than the rounds before are left out.
    """
    curves = [curve(run, phase, name) for run in runs]
    alike = curves[0].rounds <= last_alike(runs[0])
    values = np.stack([one.values.mean(axis=0) for one in curves])
    return Curve(curves[0].rounds[alike], values[:, alike])


def oscillations(runs: Sequence[Run], name: str, first: float = 0.0) -> Array:
    """Return the oscillation of a measure, the mean of rise and fall, for each seed.

    `first` is the fraction of the run's rounds that is skipped.
    """
    values = []
    for run in runs:
        start = int(first * run.train["round"].shape[1]) + 1
        changes = oscillation(run, name, first=start)
        values.append((changes.rise + changes.fall) / 2)
    return np.array(values)


def late_mean(runs: Sequence[Run], name: str, phase: int, first: float = 0.5) -> Array:
    """Return the mean of a measure over peers and late rounds, for each seed.

    `first` is the fraction of the run's rounds that is skipped.
    """
    values = mean_curve(runs, name, phase).values
    return np.asarray(values[:, int(first * values.shape[1]) :].mean(axis=1))


def percent(values: Array) -> str:
    """Format the mean and the standard deviation over seeds of fractions, in percent."""
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{100 * values.mean():.1f} ± {100 * deviation:.1f} %"


def points(value: float) -> str:
    """Format a difference of two fractions in percentage points, with its sign."""
    return f"{100 * value:+.1f} points"
