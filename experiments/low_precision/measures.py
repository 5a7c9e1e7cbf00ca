"""Setting of Aketi, Kodge & Roy 2022, and the measures that its drawings and claims share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from experiments.harness.measures import late_mean
from experiments.harness.reproduce import Runs
from p2psim.analysis.results import Array, Run

Measure: TypeAlias = Callable[[Sequence[Run]], Array]  # one accuracy for each seed
RATES = ("0.05", "0.1", "0.2")  # learning rates of s-qgm
# Norm of the model -> name.
NORMS = {"batch": "batch", "group": "group", "evonorm": "EvoNorm", "range-evonorm": "Range-EvoNorm"}
# (norm, model) -> mJ of an iteration with 32 samples by the formulas of section 5, fp32 and int8.
ENERGY = {
    ("range-bn", "resnet-20"): (18.211, 0.9163),
    ("range-bn", "resnet-54"): (49.753, 2.5011),
    ("range-bn", "vgg-11"): (67.726, 3.3959),
    ("range-evonorm", "resnet-20"): (18.284, 0.9205),
    ("range-evonorm", "resnet-54"): (49.937, 2.5119),
    ("range-evonorm", "vgg-11"): (67.784, 3.3994),
}


def late_accuracy(runs: Sequence[Run]) -> Array:
    """Return the accuracy of the averaged model, mean of the second half, for each seed."""
    return late_mean(runs, "mean_model_accuracy", 1)


def late_peer_accuracy(runs: Sequence[Run]) -> Array:
    """Return the accuracy of the peers' own models, mean of the second half, for each seed."""
    return late_mean(runs, "accuracy", 1)


def final_accuracy(runs: Sequence[Run]) -> Array:
    """Return the accuracy of the averaged model at the end, for each seed."""
    return np.array([run.eval["mean_model_accuracy"][0, run.rows(1)[-1]] for run in runs])


def energy(runs: Runs, norm: str, precision: str, model: str) -> float:
    """Return the energy (mJ) of the first iteration of a peer."""
    return float(runs[f"norm={norm}-precision={precision}-{model}"][0].train["energy"][0, 0])
