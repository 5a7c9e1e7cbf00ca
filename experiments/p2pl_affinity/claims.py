"""P2PL with Affinity, figures 2 to 6: what is drawn, and what must be seen.

Claims marked "paper" are from Pranav & Moura 2023; those of the small variants are orderings that
an independent program measured on the same data with other random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.harness.measures import late, mean, over, points, spread
from experiments.harness.reproduce import Claim, Figure, Runs
from p2psim.analysis.metrics import curve, last_alike, oscillation, rounds_to
from p2psim.analysis.plots import COLORS
from p2psim.analysis.results import Run

TITLE = "Peer-to-peer learning and consensus with non-IID data (P2PL with Affinity)"
TARGET = 0.97  # accuracy of every device, figure 2
FORGETTING = 4  # first round of figure 2 in which local learning loses more than it gains
SEEN, UNSEEN, ALL = "seen_accuracy", "unseen_accuracy", "accuracy"


# Drawing


def sawtooth(
    axes: Any, runs: Sequence[Run], name: str, color: str, label: str, unit: float = 1.0
) -> None:
    """After local learning and after consensus in turn, mean over devices and seeds, with range.

    `unit`: how many units of the axis a round is.
    """
    local, consensus = mean(runs, name, 0), mean(runs, name, 1)
    where = unit * np.stack([local.rounds - 0.5, consensus.rounds], axis=1).reshape(-1)
    values = np.stack([local.values, consensus.values], axis=2).reshape(len(runs), -1)
    axes.plot(where, values.mean(axis=0), color=color, linewidth=1, label=label)
    band = {"color": color, "alpha": 0.15, "linewidth": 0}
    axes.fill_between(where, values.min(axis=0), values.max(axis=0), **band)


def line(
    axes: Any, runs: Sequence[Run], name: str, color: str, label: str, unit: float = 1.0
) -> None:
    """After consensus alone."""
    found = mean(runs, name, 1)
    style = {"color": color, "linestyle": (0, (4, 2))}
    axes.plot(unit * found.rounds, found.values.mean(axis=0), label=label, **style)


def ready(axes: Any, title: str, of: str = "test accuracy") -> None:
    """Labels and legend."""
    axes.set_title(title)
    axes.set(xlabel="round", ylabel=of, ylim=(-0.02, 1.02))
    axes.legend(fontsize=8, loc="lower right")


# Figure 2: a hundred devices


def draw_2(figure: Any, runs: Runs) -> None:
    """Left all rounds, right some late ones; in the legend rounds until all reach the target."""
    whole, late = figure.subplots(1, 2)
    for color, (case, group) in zip(COLORS, runs.items(), strict=False):
        text = f"{case}: all have reached {TARGET:.0%} after {reached(group[0])} rounds"
        for axes in (whole, late):
            sawtooth(axes, group, ALL, color, text)
    last = min(group[0].train["round"].shape[1] for group in runs.values())
    ready(whole, "mean over devices, after local learning and after consensus")
    ready(late, f"rounds {last - 20} to {last}")
    whole.set_ylim(0.5, 1)
    late.set(xlim=(last - 20, last), ylim=(TARGET - 0.03, TARGET + 0.01))


def reached(run: Run) -> str:
    """Rounds to the target, in words: the last round is on all images, those before on some."""
    found = rounds_to(run, TARGET)
    return f"{'at most ' * ((found or 0) > last_alike(run))}{found or 'more'}"


def claims_2(runs: Runs) -> list[Claim]:
    """Every device learns; the sawtooth is there all the time and shrinks."""
    made = []
    for case, (run,) in runs.items():
        rounds = run.train["round"].shape[1]
        least = curve(run, 1).values[:, -1].min()
        once = oscillation(run, last=1).rise
        first = oscillation(run, first=FORGETTING, last=rounds // 10)
        last = oscillation(run, first=rounds - rounds // 10)
        local, consensus = (curve(run, phase).values[:, FORGETTING - 2 : -1] for phase in (0, 1))
        rises = (consensus > local).mean(axis=0)[1:] > 0.5
        falls = (consensus[:, :-1] > local[:, 1:]).mean(axis=0) > 0.5
        made += [
            Claim(
                f"{case}: every device ends at 97 % or more after consensus (all test images)",
                "all devices reach 97 %",
                f"the least has {100 * least:.2f} %; all got there in {reached(run)} rounds",
                bool(least >= TARGET),
            ),
            Claim(
                f"{case}: in 95 % of rounds from the {FORGETTING}th on most devices fall after "
                "local learning and rise at consensus, in the last tenth less than in the first",
                "8 % at the start, 0.5 % near the end (complete)",
                f"rise {100 * once:.1f} % in round 1, {100 * first.rise:.2f} to "
                f"{100 * last.rise:.2f} %, fall {100 * first.fall:.2f} to {100 * last.fall:.2f} %; "
                f"in {rises.mean():.0%} and {falls.mean():.0%} of rounds",
                0 < last.rise < first.rise < once
                and 0 < last.fall < first.fall
                and bool(min(rises.mean(), falls.mean()) > 0.95),
            ),
        ]
    return made


# Figure 3: two devices, four classes, a hundred samples each


def draw_3(figure: Any, runs: Runs) -> None:
    """a, b: different classes; c, d: the same. a, c: the device's own two; b, d: the other two."""
    panels = figure.subplots(2, 2, sharex=True).reshape(-1)
    for axes, name, title in zip(
        panels,
        (SEEN, UNSEEN),
        ("(a) non-IID, seen classes", "(b) non-IID, unseen classes"),
        strict=False,
    ):
        sawtooth(axes, runs["local-dsgd"], name, COLORS[0], "local DSGD, T = 10")
        line(axes, runs["dsgd"], name, COLORS[1], "DSGD", unit=0.1)
        line(axes, runs["isolated"], name, COLORS[6], "isolated")
        ready(axes, title)
    for axes, pair in zip(panels[2:], ((0, 1), (7, 8)), strict=True):
        title = f"({'c' if pair == (0, 1) else 'd'}) IID, classes {pair[0]} and {pair[1]}"
        sawtooth(
            axes, of_pair(runs["local-dsgd-iid"], pair), "pair", COLORS[0], "local DSGD, T = 10"
        )
        line(axes, of_pair(runs["dsgd-iid"], pair), "pair", COLORS[1], "DSGD", unit=0.1)
        ready(axes, title)


def of_pair(runs: Sequence[Run], pair: tuple[int, int]) -> list[Run]:
    """The same runs with the mean accuracy of two classes as one more column."""
    for run in runs:
        run.eval["pair"] = run.eval["class_accuracy"][..., pair].mean(axis=-1)
    return list(runs)


def claims_3(runs: Runs) -> list[Claim]:
    """Forgetting between consensus, none lost after it; nearly nothing of it where data are IID."""
    local, dsgd, alone = (runs[case] for case in ("local-dsgd", "dsgd", "isolated"))
    early = mean(local, UNSEEN, 0).values[:, :5].max(axis=1)
    apart = mean(local, UNSEEN, 1).values - mean(dsgd, UNSEEN, 1).values
    below, above = apart.mean(axis=0).min(), apart.mean(axis=0).max()
    seen = late(local, SEEN, 0, 0.0)
    low, high = late(dsgd, SEEN, 1, 0.0), late(alone, SEEN, 1, 0.0)
    iid, other = over(runs["local-dsgd-iid"], ALL), over(local, ALL)
    return [
        Claim(
            "non-IID: accuracy on unseen classes falls below 5 % after local learning early on",
            "to 0 %",
            f"at most {100 * early.max():.1f} % in the first 5 rounds",
            bool(early.max() < 0.05),
        ),
        Claim(
            "and jumps at consensus to within 3 points of DSGD (mean over all rounds)",
            "to the curve of DSGD",
            f"{100 * np.abs(apart).mean():.1f} points away in the mean, {points(below)} to "
            f"{points(above)} in single rounds",
            bool(np.abs(apart).mean() < 0.03),
        ),
        Claim(
            "accuracy on seen classes after local learning is between DSGD and isolated training",
            "bounded by DSGD below and isolated training above",
            f"{spread(low)} < {spread(seen)} < {spread(high)}",
            bool((low < seen).all() and (seen < high).all()),
        ),
        Claim(
            "IID: the oscillation is less than a third of the non-IID one",
            "much smaller",
            f"{spread(iid)} against {spread(other)}",
            bool((np.abs(iid) < other / 3).all()),
        ),
    ]


# Figures 4 and 5: fewer local steps, more classes


def draw_pair(figure: Any, runs: Runs) -> None:
    """Accuracy on unseen and on all classes against local steps."""
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, (UNSEEN, ALL), strict=True):
        for color, (case, group) in zip(COLORS, runs.items(), strict=False):
            steps = group[0].experiment["learning"]["local_steps"]
            sawtooth(axes, group, name, color, case, unit=steps / 10)  # ten steps are an epoch
        ready(axes, f"{name.replace('_', ' ')}, mean and range of three seeds")
        axes.set_xlabel("epoch")


def claims_4(runs: Runs) -> list[Claim]:
    """Half the local steps, less to forget."""
    five, ten = over(runs["T-5"], UNSEEN), over(runs["T-10"], UNSEEN)
    more = [late(runs["T-5"], ALL, k, 0.9) - late(runs["T-10"], ALL, k, 0.9) for k in (0, 1)]
    return [
        Claim(
            "T = 5 oscillates less than T = 10 (unseen classes)",
            "smaller",
            f"{spread(five)} against {spread(ten)}",
            bool((five < ten).all()),
        ),
        Claim(
            "and is more accurate after consensus (last tenth, mean of seeds)",
            "about +0.2 % (at which moment is not said)",
            f"{spread(more[1])} more; after local learning {spread(more[0])} more",
            bool(more[1].mean() > 0),
        ),
    ]


def claims_5(runs: Runs) -> list[Claim]:
    """More classes, more to forget."""
    four, ten = runs["4-classes"], runs["10-classes"]
    return [
        Claim(
            "10 classes oscillate more than 4 (unseen classes)",
            "larger",
            f"{spread(over(ten, UNSEEN))} against {spread(over(four, UNSEEN))}",
            bool((over(ten, UNSEEN) > over(four, UNSEEN)).all()),
        ),
        Claim(
            "and are less accurate after consensus (last tenth)",
            "lower",
            f"{spread(late(ten, ALL, 1, 0.9))} against {spread(late(four, ALL, 1, 0.9))}",
            bool((late(ten, ALL, 1, 0.9) < late(four, ALL, 1, 0.9)).all()),
        ),
    ]


# Figure 6: affinity


def draw_6(figure: Any, runs: Runs) -> None:
    """Unseen and seen classes."""
    for axes, name in zip(figure.subplots(1, 2), (UNSEEN, SEEN), strict=True):
        sawtooth(axes, runs["local-dsgd"], name, COLORS[0], "local DSGD")
        sawtooth(axes, runs["affinity"], name, COLORS[2], "with affinity")
        line(axes, runs["dsgd"], name, COLORS[1], "DSGD", unit=0.1)
        if "isolated" in runs:
            line(axes, runs["isolated"], name, COLORS[6], "isolated")
        ready(axes, f"{name.replace('_', ' ')}, mean and range of three seeds")


def claims_6(runs: Runs) -> list[Claim]:
    """Affinity damps forgetting and costs nothing after consensus."""
    local, affinity, dsgd = (runs[case] for case in ("local-dsgd", "affinity", "dsgd"))
    damped, plain = over(affinity, UNSEEN, 0.5), over(local, UNSEEN, 0.5)
    ratio = damped.mean() / plain.mean()
    whole = over(affinity, UNSEEN).mean() / over(local, UNSEEN).mean()
    apart = late(affinity, ALL, 1) - late(dsgd, ALL, 1)
    return [
        Claim(
            "affinity at least halves the oscillation on unseen classes (second half)",
            "damped",
            f"{spread(damped)} against {spread(plain)}, times {ratio:.2f} (all: {whole:.2f})",
            bool((damped <= plain / 2).all()),
        ),
        Claim(
            "after consensus it is within 1 point of DSGD (second half)",
            "about equal",
            f"{spread(late(affinity, ALL, 1))} against {spread(late(dsgd, ALL, 1))}, "
            f"{points(apart.mean())}",
            bool(np.abs(apart).max() <= 0.01),
        ),
    ]


# Small variants on scikit-learn's digits


def claims_small(runs: Runs) -> list[Claim]:
    """The ordering of all variants in the second half of the rounds."""
    local = {case: late(group, UNSEEN, 0) for case, group in runs.items()}
    after = {case: late(group, UNSEEN, 1) for case, group in runs.items()}
    moved = {case: over(group, UNSEEN, 0.5) for case, group in runs.items() if case != "dsgd"}
    order = ["isolated", "local-dsgd", "affinity-half", "affinity", "dsgd"]
    damped = ["affinity", "affinity-half", "local-dsgd"]
    gap = np.max([abs(after[case] - after["dsgd"]) for case in damped])
    end = [float(np.nanmax(run.eval["consensus_distance"][0])) for run in runs["printed"]]
    finite = [bool(np.isfinite(run.eval["loss"][:, -1]).all()) for run in runs["printed"]]
    return [
        Claim(
            "unseen classes after local learning: " + " < ".join(order),
            "0 < .530 < .680 < .744 < .855",
            " < ".join(f"{local[case].mean():.3f}" for case in order),
            bool(np.all(np.diff([local[case] for case in order], axis=0) > 0)),
        ),
        Claim(
            "oscillation on unseen classes: " + " < ".join(damped),
            ".12 < .18 < .34",
            " < ".join(f"{moved[case].mean():.3f}" for case in damped),
            bool(np.all(np.diff([moved[case] for case in damped], axis=0) > 0)),
        ),
        Claim(
            "after consensus all are within 4 points of DSGD, and isolated training has nothing",
            "DSGD .855, local DSGD .867, affinity .862 and .864, isolated 0",
            ", ".join(f"{case} {after[case].mean():.3f}" for case in ["dsgd", *damped, "isolated"]),
            bool(gap <= 0.04 and after["isolated"].max() == 0),
        ),
        Claim(
            "the printed affinity diverges",
            "NaN",
            f"consensus distance up to {max(end):.3g}, last loss finite: {any(finite)}",
            bool(min(end) > 1e3 or not any(finite)),
        ),
    ]


def draw_iid(figure: Any, runs: Runs) -> None:
    """Twenty devices alike in kind."""
    axes = figure.subplots()
    for color, (case, group) in zip(COLORS, runs.items(), strict=False):
        sawtooth(axes, group, ALL, color, case)
    ready(axes, "mean over devices and seeds")


def claims_iid(runs: Runs) -> list[Claim]:
    """The gain at consensus is larger on the complete graph and shrinks on both."""
    first = {k: np.array([oscillation(r, last=10).rise for r in g]) for k, g in runs.items()}
    last = {k: np.array([oscillation(r, first=31).rise for r in g]) for k, g in runs.items()}
    both = " and ".join(f"{k} {first[k].mean():.3f} to {last[k].mean():.3f}" for k in runs)
    return [
        Claim(
            "the gain at consensus shrinks from the first ten rounds to the last ten",
            "complete .112 to .021, ring .058 to .013",
            both,
            all(bool((last[k] < first[k]).all() and (last[k] > 0).all()) for k in runs),
        ),
        Claim(
            "and is larger on the complete graph than on the ring",
            ".112 > .058, .021 > .013",
            both,
            bool((first["complete"] > first["ring"]).all())
            and bool((last["complete"] > last["ring"]).all()),
        ),
    ]


FOUR = {"4-classes": ("fig4", "T-10")}
TEN = {"local-dsgd": ("fig5", "10-classes")}
FIGURES = {
    "mnist": [
        Figure("fig3", "100 samples of 4 classes", "full/fig3.toml", draw_3, claims_3, (10, 7)),
        Figure("fig4", "fewer local steps", "full/fig4.toml", draw_pair, claims_4),
        Figure("fig5", "more classes", "full/fig5.toml", draw_pair, claims_5, shared=FOUR),
        Figure("fig6", "affinity", "full/fig6.toml", draw_6, claims_6, shared=TEN),
        Figure("fig2", "a hundred devices", "full/fig2.toml", draw_2, claims_2),
    ],
    "digits": [
        Figure("s-p2pl", "affinity, small", "small/s-p2pl.toml", draw_6, claims_small),
        Figure("s-iid", "twenty devices", "small/s-iid.toml", draw_iid, claims_iid, (6, 4)),
    ],
}
