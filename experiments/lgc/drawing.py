"""Drawings of figures 3 to 6 of Xu 2021."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.harness.reproduce import Runs
from experiments.lgc.measures import (
    CLASSES,
    FINISHED,
    PERIODS,
    N,
    expected_seconds,
    finished_fractions,
    iteration_seconds,
    seeds_of,
    test_accuracy,
    test_loss,
    train_loss,
)
from p2psim.analysis.plots import COLORS

NAMES = {"full": "Full-SGD", "lgc": "LGC-SGD, k = 7", "k": "K-SGD, k = 7"}


def draw_time(figure: Any, runs: Runs) -> None:
    """Draw the seconds of an iteration against k, with the theory as a line."""
    axes = figure.subplots()
    ks = [run.experiment["algorithm"].get("k", N) for (run, *_) in runs.values()]
    theory = [expected_seconds(k) for k in range(1, N + 1)]
    axes.plot(range(1, N + 1), theory, color=COLORS[5])
    means = [iteration_seconds(group).mean() for group in runs.values()]
    axes.plot(ks, means, "o", color=COLORS[0])
    axes.set(xlabel="k", ylabel="virtual seconds of an iteration", ylim=(0, None))


def draw_6_time(figure: Any, runs: Runs) -> None:
    """Draw a bar for each number of finished blocks, with the theory as points."""
    axes, fractions = figure.subplots(), finished_fractions(runs)
    axes.bar(list(fractions), list(fractions.values()), color=COLORS[0], label="run")
    axes.plot(list(FINISHED), list(FINISHED.values()), "o", color=COLORS[5], label="theory")
    axes.set(xlabel="blocks that a straggler has finished, of 4", ylabel="share")
    axes.legend(fontsize=8)


def draw_3(figure: Any, runs: Runs) -> None:
    """Draw accuracy against h, a panel for each number of classes of a peer."""
    panels = figure.subplots(1, len(CLASSES), sharey=True)
    for axes, classes in zip(panels, CLASSES, strict=True):
        full = test_accuracy(seeds_of(runs, classes, "full")).mean()
        axes.axhline(full, color=COLORS[6], linewidth=1, label="Full-SGD")
        for color, (method, name) in zip(
            COLORS, {"lgc": "LGC", "k": "K-SGD"}.items(), strict=False
        ):
            groups = [seeds_of(runs, classes, f"{method}-{h}") for h in PERIODS]
            values = np.array([test_accuracy(group) for group in groups])
            axes.plot(list(PERIODS.values()), values.mean(axis=1), "o-", color=color, label=name)
            axes.fill_between(
                range(len(PERIODS)), values.min(axis=1), values.max(axis=1), color=color, alpha=0.15
            )
        axes.set(xlabel="h", title=f"{classes} classes a peer")
    panels[0].set_ylabel("test accuracy")
    panels[0].legend(fontsize=8, loc="lower left")


def draw_4(figure: Any, runs: Runs) -> None:
    """Draw training loss against iterations (left) and against virtual time (right)."""
    panels = figure.subplots(1, 2, sharey=True)
    for color, (case, group) in zip(COLORS, runs.items(), strict=False):
        window = np.ones(39) / 39  # a quarter of an epoch
        values = np.nanmean([run.train["loss"] for run in group], axis=(0, 1))
        values = np.convolve(values, window, "valid")  # starts where a whole window has passed
        time = np.mean([run.train["time"].max(axis=0) for run in group], axis=0)[-values.size :]
        for axes, x in ((panels[0], np.arange(values.size) + 39), (panels[1], time)):
            axes.plot(x, values, color=color, linewidth=1, label=NAMES[case])
    panels[0].set(xlabel="iteration", ylabel="training loss", yscale="log")
    panels[1].set(xlabel="virtual time (s)")
    panels[0].legend(fontsize=8)


def draw_5(figure: Any, runs: Runs) -> None:
    """Draw test loss and accuracy against the time of an iteration, a point for each k."""
    panels = figure.subplots(1, 2)
    for color, method in zip(COLORS, ("lgc", "k"), strict=False):
        groups = [runs[f"k={k}-{method}"] for k in range(5, N + 1)]
        time = [iteration_seconds(group).mean() for group in groups]
        for axes, measure in zip(panels, (test_loss, test_accuracy), strict=True):
            values = [measure(group).mean() for group in groups]
            axes.plot(time, values, "o-", color=color, label=NAMES[method].split(",")[0])
            for k, x, y in zip(range(5, N + 1), time, values, strict=True):
                axes.annotate(f"{k}", (x, y), fontsize=7, xytext=(2, 3), textcoords="offset points")
    panels[0].set(xlabel="virtual seconds of an iteration", ylabel="test loss", yscale="log")
    panels[1].set(xlabel="virtual seconds of an iteration", ylabel="test accuracy")
    panels[0].legend(fontsize=8)


def draw_6(figure: Any, runs: Runs) -> None:
    """Draw training loss and accuracy against the number of finished blocks, scaled or not."""
    panels = figure.subplots(1, 2)
    kinds = ["1", "2", "3", "4", "random", "timing"]
    for color, scaling in zip(COLORS, ("True", "False"), strict=False):
        groups = [runs[f"scaling={scaling}-partial={kind}"] for kind in kinds]
        for axes, measure in zip(panels, (train_loss, test_accuracy), strict=True):
            label = "scaled (r / s)" if scaling == "True" else "not scaled"
            axes.plot(kinds, [measure(g).mean() for g in groups], "o-", color=color, label=label)
    panels[0].set(xlabel="blocks that stragglers finish, of 4", ylabel="training loss")
    panels[1].set(xlabel="blocks that stragglers finish, of 4", ylabel="test accuracy")
    panels[0].legend(fontsize=8)
