"""Measures of the runs of Direct Feedback Alignment, and the values to compare them with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from experiments.harness.reproduce import Runs
from p2psim.analysis.results import Array, Run

RULES = ("bp", "dfa", "shallow")
NAMES = {"bp": "backpropagation", "dfa": "DFA", "shallow": "shallow"}
GRAPHS = ("cora", "citeseer")
# Table 3: model -> (BP, DFA) on Cora and on CiteSeer.
TABLE3 = {
    "gcn": ((0.801, 0.799), (0.716, 0.694)),
    "cheb": ((0.792, 0.754), (0.695, 0.676)),
    "spline": ((0.810, 0.777), (0.700, 0.698)),
    "gat": ((0.826, 0.806), (0.720, 0.712)),
    "dna": ((0.846, 0.829), (0.734, 0.708)),
}
# Table 4: area under the ROC curve of BP and DFA.
TABLE4 = {"cora": (0.918, 0.900), "citeseer": (0.886, 0.879)}


Measure: TypeAlias = Callable[[Sequence[Run]], Array]  # one value for each seed


def of_rule(runs: Runs, rule: str) -> list[Run]:
    """Return the runs of all cases whose name ends with a rule."""
    return [run for case, own in runs.items() if case.rpartition("-")[2] == rule for run in own]


def final_auc(runs: Sequence[Run]) -> Array:
    """Return the area under the ROC curve at the end, for each seed."""
    return final(runs, "auc")


def final(runs: Sequence[Run], name: str) -> Array:
    """Return the mean over peers of a column of /eval in the last row, for each seed."""
    return np.array([run.eval[name][:, run.rows(1)[-1]].mean() for run in runs])


def at_best_validation(runs: Sequence[Run]) -> Array:
    """Return the mean of the peers' test values where their mean validation value is best.

    There is one value for each seed; the first of equally good evaluations counts.
    """
    values = []
    for run in runs:
        rows = run.rows(1)
        validation = run.eval[f"validation_{run.primary}"][:, rows].mean(axis=0)
        values.append(run.eval[run.primary][:, rows[validation.argmax()]].mean())
    return np.array(values)


def cosines(runs: Sequence[Run], least: int) -> Array:
    """Return the cosines of weight gradients from round `least` on, (seeds, rows, weights)."""
    aligned = [run.alignment for run in runs]
    rows = aligned[0]["round"][0] >= least
    return np.stack([own["cosine"][:, rows].mean(axis=0) for own in aligned])


def number(values: Array, digits: int = 3) -> str:
    """Format the mean and the standard deviation over seeds."""
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.{digits}f} ± {deviation:.{digits}f}"
