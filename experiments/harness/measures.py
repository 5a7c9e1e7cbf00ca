"""What figures and claims of the papers measure, over peers and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p2psim.analysis.metrics import Curve, curve, last_alike, oscillation
from p2psim.analysis.results import Array, Run


def mean(runs: Sequence[Run], name: str, phase: int) -> Curve:
    """Mean over devices, of each seed; without a last round that is on other samples."""
    curves = [curve(run, phase, name) for run in runs]
    alike = curves[0].rounds <= last_alike(runs[0])
    values = np.stack([one.values.mean(axis=0) for one in curves])
    return Curve(curves[0].rounds[alike], values[:, alike])


def over(runs: Sequence[Run], name: str, first: float = 0.0) -> Array:
    """Oscillation, mean of rise and fall, of each seed; from a part `first` of the run on."""
    found = []
    for run in runs:
        start = int(first * run.train["round"].shape[1]) + 1
        moved = oscillation(run, name, first=start)
        found.append((moved.rise + moved.fall) / 2)
    return np.array(found)


def late(runs: Sequence[Run], name: str, phase: int, first: float = 0.5) -> Array:
    """Mean of a measure over devices and the last part of the run, of each seed."""
    values = mean(runs, name, phase).values
    return np.asarray(values[:, int(first * values.shape[1]) :].mean(axis=1))


def spread(values: Array) -> str:
    """Mean and standard deviation over seeds, of shares in percent."""
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{100 * values.mean():.1f} ± {100 * deviation:.1f} %"


def points(value: float) -> str:
    """A difference of shares."""
    return f"{100 * value:+.1f} points"
