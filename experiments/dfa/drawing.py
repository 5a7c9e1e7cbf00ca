"""Drawings of the figures of Direct Feedback Alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.dfa.measures import (
    NAMES,
    RULES,
    TABLE3,
    at_best_validation,
    cosines,
    final,
    of_rule,
)
from experiments.dfa.peer_claims import KINDS, PARTITIONS
from experiments.harness.measures import mean_curve
from experiments.harness.reproduce import Runs
from p2psim.analysis.plots import COLORS, LINES
from p2psim.analysis.results import Array


def bars(
    axes: Any,
    groups: Sequence[str],
    values: Mapping[str, Sequence[Array]],
    published: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Draw a bar for each group and each name in `values`, with the range over seeds.

    `published` gives values that are marked on the bars of the same name.
    """
    width = 0.8 / len(values)
    for index, (name, arrays) in enumerate(values.items()):
        means, errors = [a.mean() for a in arrays], [np.ptp(a) / 2 for a in arrays]
        x = np.arange(len(groups)) + (index - (len(values) - 1) / 2) * width
        axes.bar(x, means, width, color=COLORS[index], label=name)
        axes.errorbar(x, means, errors, fmt="none", color="k", linewidth=1)
        if published and name in published:
            label = "paper" if index == 0 else None
            axes.plot(x, published[name], "_", color="k", markersize=14, label=label)
    axes.set_xticks(range(len(groups)), groups)


def draw_nodes(models: Sequence[str], figure: Any, runs: Runs) -> None:
    """Draw Table 3: accuracies of these models by rule, a panel for each graph."""
    panels = figure.subplots(1, 2, sharey=True)
    for column, (axes, graph) in enumerate(zip(panels, ("cora", "citeseer"), strict=True)):
        values = {
            NAMES[rule]: [
                at_best_validation(runs[f"graph={graph}-{model}-{rule}"]) for model in models
            ]
            for rule in RULES
        }
        paper = {
            NAMES[rule]: [TABLE3[model][column][index] for model in models]
            for index, rule in enumerate(RULES[:2])
        }
        bars(axes, models, values, paper)
        axes.set_title(graph)
    panels[0].set_ylabel("test accuracy at the best validation")
    panels[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_cases(
    column: str,
    label: str,
    groups: Sequence[str],
    names: Mapping[str, str],
    figure: Any,
    runs: Runs,
) -> None:
    """Draw a column of /eval at the end: a bar for each group and each rule of `names`."""
    axes = figure.subplots()
    values = {
        name: [final(runs[f"{group}-{case}".strip("-")], column) for group in groups]
        for case, name in names.items()
    }
    bars(axes, groups, values)
    low = min(float(a.min()) for arrays in values.values() for a in arrays)
    high = max(float(a.max()) for arrays in values.values() for a in arrays)
    axes.set(ylabel=label, ylim=(max(0.0, low - (high - low) / 2), high + (high - low) / 10))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_mlp(figure: Any, runs: Runs) -> None:
    """Draw accuracies by round, and the cosines of the gradients of each weight."""
    left, right = figure.subplots(1, 2)
    for color, rule in zip(COLORS, RULES, strict=False):
        curve = mean_curve(runs[f"rule={rule}"], "accuracy", 1)
        left.plot(curve.rounds, curve.values.mean(axis=0), color=color, label=NAMES[rule])
    left.set(xlabel="step", ylabel="test accuracy")
    left.legend(fontsize=8)
    aligned = runs["rule=dfa"]
    values = cosines(aligned, 0).mean(axis=0).T
    rounds = aligned[0].alignment["round"][0]
    for index, line in enumerate(values):
        style = {"color": COLORS[index % len(COLORS)], "linestyle": LINES[index % len(LINES)]}
        right.plot(rounds, line, label=f"weight {index + 1}", **style)
    right.set(xlabel="step", ylabel="cosine with backpropagation", ylim=(0, 1.02))
    right.legend(fontsize=8)


def draw_views(figure: Any, runs: Runs) -> None:
    """Show the first test view of each rule beside the true one, for the first seed."""
    from matplotlib.image import imread

    panels = figure.subplots(1, len(RULES))
    for axes, rule in zip(panels, RULES, strict=True):
        own = of_rule(runs, rule)
        axes.imshow(imread(Path(own[0].path) / "peers" / "result-00000.png"))
        axes.set_title(f"{NAMES[rule]}: {final(own, 'psnr').mean():.1f} dB")
        axes.axis("off")


def draw_peers(partitions: Sequence[str], figure: Any, runs: Runs) -> None:
    """Draw the peers' accuracy by round, a panel for each partition."""
    panels = figure.subplots(1, len(partitions), sharey=True)
    for axes, partition in zip(panels, partitions, strict=True):
        for color, (kind, label) in zip(COLORS, KINDS.items(), strict=False):
            curve = mean_curve(runs[f"{partition}-{kind}"], "accuracy", 1)
            low, high = curve.values.min(axis=0), curve.values.max(axis=0)
            axes.plot(curve.rounds, curve.values.mean(axis=0), color=color, label=label)
            axes.fill_between(curve.rounds, low, high, color=color, alpha=0.15)
        axes.set(xlabel="round", title=PARTITIONS[partition])
    panels[0].set_ylabel("accuracy, mean over peers")
    panels[0].legend(fontsize=8, loc="lower right")


def draw_stragglers(figure: Any, runs: Runs) -> None:
    """Draw accuracy against virtual time, a panel for each rule."""
    panels = figure.subplots(1, 2, sharey=True)
    names = {"full": "all peers", "lgc": "LGC-SGD, 7 of 10", "k": "K-SGD, 7 of 10"}
    for axes, rule in zip(panels, RULES[:2], strict=True):
        for color, (case, name) in zip(COLORS, names.items(), strict=False):
            own = runs[f"rule={rule}-{case}"]
            curve = mean_curve(own, "accuracy", 1)
            rows = own[0].rows(1)[: curve.rounds.size]
            times = np.mean([run.eval["time"][:, rows].mean(axis=0) for run in own], axis=0)
            axes.plot(times, curve.values.mean(axis=0), color=color, label=name)
        axes.set(xlabel="virtual time (s)", title=NAMES[rule])
    panels[0].set_ylabel("test accuracy")
    panels[1].legend(fontsize=8, loc="lower right")


def draw_graph_peers(figure: Any, runs: Runs) -> None:
    """Draw the test accuracy at the best validation: a bar for each partition and kind."""
    axes = figure.subplots()
    values = {
        label: [at_best_validation(runs[f"{partition}-{kind}"]) for partition in ("iid", "four")]
        for kind, label in KINDS.items()
    }
    bars(axes, [PARTITIONS["iid"], PARTITIONS["four"]], values)
    axes.set_ylabel("accuracy at the best validation")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
