"""Drawings of figures 2 to 6 of Pranav & Moura 2023."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.harness.measures import mean_curve
from experiments.harness.reproduce import Runs
from experiments.p2pl_affinity.measures import (
    ALL,
    SEEN,
    TARGET,
    UNSEEN,
    rounds_to_target,
)
from p2psim.analysis.plots import COLORS
from p2psim.analysis.results import Run


def draw_sawtooth(
    axes: Any, runs: Sequence[Run], name: str, color: str, label: str, unit: float = 1.0
) -> None:
    """Draw the mean over devices and seeds, after local learning and after consensus in turn.

    A band shows the range over seeds. `unit` is the length of a round on the x axis.
    """
    local, consensus = mean_curve(runs, name, 0), mean_curve(runs, name, 1)
    # Round r has two values: after local learning at r - 1/2, after consensus at r.
    x = unit * np.stack([local.rounds - 0.5, consensus.rounds], axis=1).reshape(-1)
    values = np.stack([local.values, consensus.values], axis=2).reshape(len(runs), -1)
    axes.plot(x, values.mean(axis=0), color=color, linewidth=1, label=label)
    band = {"color": color, "alpha": 0.15, "linewidth": 0}
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), **band)


def draw_line(
    axes: Any, runs: Sequence[Run], name: str, color: str, label: str, unit: float = 1.0
) -> None:
    """Draw the mean over devices and seeds after consensus alone, as a dashed line."""
    curve = mean_curve(runs, name, 1)
    style = {"color": color, "linestyle": (0, (4, 2))}
    axes.plot(unit * curve.rounds, curve.values.mean(axis=0), label=label, **style)


def finish(axes: Any, title: str) -> None:
    """Set the title, the labels and the range of a panel, and add its legend."""
    axes.set_title(title)
    axes.set(xlabel="round", ylabel="test accuracy", ylim=(-0.02, 1.02))
    axes.legend(fontsize=8, loc="lower right")


def with_pair(runs: Sequence[Run], pair: tuple[int, int]) -> list[Run]:
    """Add the column "pair", the mean accuracy of two classes, to each run; return the runs."""
    for run in runs:
        run.eval["pair"] = run.eval["class_accuracy"][..., pair].mean(axis=-1)
    return list(runs)


def draw_2(figure: Any, runs: Runs) -> None:
    """Draw all rounds (left) and the last 20 (right); the legend has the rounds to the target."""
    whole, late = figure.subplots(1, 2)
    for color, (case, group) in zip(COLORS, runs.items(), strict=False):
        text = f"{case}: all have reached {TARGET:.0%} after {rounds_to_target(group[0])} rounds"
        for axes in (whole, late):
            draw_sawtooth(axes, group, ALL, color, text)
    last = min(group[0].train["round"].shape[1] for group in runs.values())
    finish(whole, "mean over devices, after local learning and after consensus")
    finish(late, f"rounds {last - 20} to {last}")
    whole.set_ylim(0.5, 1)
    late.set(xlim=(last - 20, last), ylim=(TARGET - 0.03, TARGET + 0.01))


def draw_3(figure: Any, runs: Runs) -> None:
    """Draw four panels: (a, b) devices with different classes, (c, d) with the same classes.

    (a) and (c) show a device's own two classes, (b) and (d) the other two.
    """
    panels = figure.subplots(2, 2, sharex=True).reshape(-1)
    for axes, name, title in zip(
        panels,
        (SEEN, UNSEEN),
        ("(a) non-IID, seen classes", "(b) non-IID, unseen classes"),
        strict=False,
    ):
        draw_sawtooth(axes, runs["local-dsgd"], name, COLORS[0], "local DSGD, T = 10")
        # Ten rounds of DSGD have as many gradients as one round with T = 10.
        draw_line(axes, runs["dsgd"], name, COLORS[1], "DSGD", unit=0.1)
        draw_line(axes, runs["isolated"], name, COLORS[6], "isolated")
        finish(axes, title)
    for axes, pair in zip(panels[2:], ((0, 1), (7, 8)), strict=True):
        title = f"({'c' if pair == (0, 1) else 'd'}) IID, classes {pair[0]} and {pair[1]}"
        local, dsgd = (with_pair(runs[case], pair) for case in ("local-dsgd-iid", "dsgd-iid"))
        draw_sawtooth(axes, local, "pair", COLORS[0], "local DSGD, T = 10")
        draw_line(axes, dsgd, "pair", COLORS[1], "DSGD", unit=0.1)
        finish(axes, title)


def draw_pair(figure: Any, runs: Runs) -> None:
    """Draw accuracy on unseen and on all classes against epochs (figures 4 and 5)."""
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, (UNSEEN, ALL), strict=True):
        for color, (case, group) in zip(COLORS, runs.items(), strict=False):
            steps = group[0].experiment["learning"]["local_steps"]
            draw_sawtooth(axes, group, name, color, case, unit=steps / 10)  # 10 steps: an epoch
        finish(axes, f"{name.replace('_', ' ')}, mean and range of three seeds")
        axes.set_xlabel("epoch")


def draw_6(figure: Any, runs: Runs) -> None:
    """Draw accuracy on unseen (left) and on seen classes (right)."""
    for axes, name in zip(figure.subplots(1, 2), (UNSEEN, SEEN), strict=True):
        draw_sawtooth(axes, runs["local-dsgd"], name, COLORS[0], "local DSGD")
        draw_sawtooth(axes, runs["affinity"], name, COLORS[2], "with affinity")
        draw_line(axes, runs["dsgd"], name, COLORS[1], "DSGD", unit=0.1)
        if "isolated" in runs:
            draw_line(axes, runs["isolated"], name, COLORS[6], "isolated")
        finish(axes, f"{name.replace('_', ' ')}, mean and range of three seeds")


def draw_iid(figure: Any, runs: Runs) -> None:
    """Draw accuracy of twenty IID devices, a sawtooth for each topology."""
    axes = figure.subplots()
    for color, (case, group) in zip(COLORS, runs.items(), strict=False):
        draw_sawtooth(axes, group, ALL, color, case)
    finish(axes, "mean over devices and seeds")
