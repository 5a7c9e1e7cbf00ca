"""Drawings of the figures and tables of Aketi, Kodge & Roy 2022."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.harness.measures import percent
from experiments.harness.reproduce import Runs
from experiments.low_precision.measures import (
    ENERGY,
    NORMS,
    RATES,
    Measure,
    energy,
    late_accuracy,
    late_peer_accuracy,
)
from experiments.low_precision.tables import ALONE, NAMES, Table, seeds_of
from p2psim.analysis.plots import COLORS


def draw_bars(groups: Sequence[str], names: dict[str, str], figure: Any, runs: Runs) -> None:
    """Draw the averaged model's accuracy: a bar for each of `groups` and each case of `names`.

    `names` maps the case to its label. Error bars show the range over seeds.
    """
    axes, width = figure.subplots(), 0.8 / len(names)
    accuracies = {
        case: [late_accuracy(runs[f"{group}-{case}".strip("-")]) for group in groups]
        for case in names
    }
    for number, (case, values) in enumerate(accuracies.items()):
        means, errors = [a.mean() for a in values], [np.ptp(a) / 2 for a in values]
        x = np.arange(len(groups)) + (number - (len(names) - 1) / 2) * width
        axes.bar(x, means, width, color=COLORS[number], label=names[case])
        axes.errorbar(x, means, errors, fmt="none", color="k")
    lowest = min(float(a.min()) for values in accuracies.values() for a in values)
    axes.set(ylabel="accuracy of the averaged model", ylim=(max(0.0, lowest - 0.02), 1.0))
    axes.set_xticks(range(len(groups)), groups)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))  # beside the bars


def draw_qgm(figure: Any, runs: Runs) -> None:
    """Draw accuracy against learning rate, a panel for each skew."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, s in zip(panels, ("0.0", "1.0"), strict=True):
        for color, (case, name) in zip(
            COLORS, {"local": "local momentum", "qgm": "quasi-global"}.items(), strict=False
        ):
            values = np.array([late_peer_accuracy(runs[f"s={s}-lr={lr}-{case}"]) for lr in RATES])
            low, high = values.min(axis=1), values.max(axis=1)
            axes.plot(RATES, values.mean(axis=1), "o-", color=color, label=name)
            axes.fill_between(RATES, low, high, color=color, alpha=0.15)
        axes.set(xlabel="lr", title=f"skew {s}")
    panels[0].set_ylabel("accuracy, mean over peers")
    panels[0].legend(fontsize=8, loc="lower left")


def draw_norms(measure: Measure, figure: Any, runs: Runs) -> None:
    """Draw the averaged model's accuracy against rounds, a curve for each norm."""
    axes = figure.subplots()
    for color, (norm, name) in zip(COLORS, NORMS.items(), strict=False):
        group = runs[f"norm={norm}"]
        rows = group[0].rows(1)
        values = np.array([run.eval["mean_model_accuracy"][0, rows] for run in group])
        rounds, label = group[0].eval["round"][0, rows], f"{name}: {percent(measure(group))}"
        axes.plot(rounds, values.mean(axis=0), color=color, label=label)
        axes.fill_between(rounds, values.min(axis=0), values.max(axis=0), color=color, alpha=0.12)
    axes.set(xlabel="round", ylabel="accuracy of the averaged model")
    axes.legend(fontsize=8, loc="lower right")


def draw_gossip(figure: Any, runs: Runs) -> None:
    """Draw consensus distance against rounds."""
    axes = figure.subplots()
    for color, (case, (run,)) in zip(COLORS, runs.items(), strict=False):
        values = run.eval["consensus_distance"][0]
        axes.semilogy(run.eval["round"][0], values, color=color, label=case)
    axes.set(xlabel="round", ylabel="consensus distance")
    axes.legend(fontsize=8)


def draw_train(figure: Any, runs: Runs) -> None:
    """Draw training loss against rounds (left) and against sent bytes (right)."""
    panels = figure.subplots(1, 2, sharey=True)
    names = {"fp-0": "32 bits, dense", "lp-0": "8 bits, dense", "lp-99": "8 bits, a hundredth"}
    for color, (case, name) in zip(COLORS, names.items(), strict=False):
        (run,) = runs[case]
        loss = np.convolve(run.train["loss"].mean(axis=0), np.ones(20) / 20, "valid")
        skipped = run.train["loss"].shape[1] - loss.size
        for axes, column in zip(panels, ("round", "bytes_sent"), strict=True):
            axes.plot(run.train[column].mean(axis=0)[skipped:], loss, color=color, label=name)
    panels[0].set(xlabel="round", ylabel="training loss")
    panels[1].set(xlabel="bytes that a peer has sent", xscale="log")
    panels[0].legend(fontsize=8)


def draw_cost(figure: Any, runs: Runs) -> None:
    """Draw the energy of an iteration in 32 and in 8 bits."""
    axes = figure.subplots()
    for number, precision in enumerate(("fp32", "int8")):
        values = [energy(runs, norm, precision, model) for norm, model in ENERGY]
        axes.bar(np.arange(len(ENERGY)) + 0.4 * number, values, 0.4, label=precision)
    axes.set_xticks(np.arange(len(ENERGY)) + 0.2, [f"{model}\n{norm}" for norm, model in ENERGY])
    axes.set(ylabel="mJ of an iteration", yscale="log")
    axes.legend(fontsize=8)


def draw_table(table: Table, measure: Measure, figure: Any, runs: Runs) -> None:
    """Draw accuracy against skew, a panel for each compression (figures 4 and 5 of the paper).

    Hollow points are the published values.
    """
    amounts = sorted({dropped for _, dropped in table.published})
    panels = np.atleast_1d(figure.subplots(1, len(amounts), sharey=True))
    for axes, dropped in zip(panels, amounts, strict=True):
        keys = [key for key in table.published if key[1] == dropped]
        skews = [key[0] for key in keys]
        for number, method in enumerate(table.methods):
            values = [100 * measure(seeds_of(runs, key, method)).mean() for key in keys]
            published = [table.published[key][number] for key in keys]
            color = COLORS[number]
            axes.plot(skews, values, "o-", color=color, label=NAMES[method])
            axes.plot(skews, published, "o", color=color, markerfacecolor="none")
        axes.set(xlabel="skew", title=f"{dropped} % dropped")
    panels[0].set_ylabel("accuracy of the averaged model (%)")
    panels[0].legend(fontsize=8)


def draw_alone(measure: Measure, figure: Any, runs: Runs) -> None:
    """Draw the accuracy of one peer alone, two bars for each model."""
    axes = figure.subplots()
    for number, bits in enumerate(("fp", "lp")):
        values = [100 * measure(runs[f"{model}-{bits}"]).mean() for model in ALONE]
        axes.bar(np.arange(len(ALONE)) + 0.4 * number, values, 0.4, label=bits)
    axes.set_xticks(np.arange(len(ALONE)) + 0.2, list(ALONE))
    axes.set(ylabel="accuracy (%)", ylim=(80, None))
    axes.legend(fontsize=8)
