"""Text tables: the summary of a run, and the comparison of two runs."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p2psim.analysis import metrics, results
from p2psim.analysis.results import Array, Run, Table, column, open_run, read
from p2psim.errors import SMALLER_STEPS
from p2psim.models import cost_model
from p2psim.simulation.run_format import PHASES

# Units in steps of 1000; values are in the first.
STEPS = {"byte": ("B", "kB", "MB", "GB", "TB"), "nJ": ("nJ", "µJ", "mJ", "J", "kJ", "MJ")}
ALWAYS = ("loss", "consensus_distance")  # columns of /eval in every task
GROWTH = 10.0  # factor on the loss of the first round that noise does not explain


@dataclass
class Measure:
    """Result of a run in one respect: a value of each peer, or one value for all."""

    label: str
    values: Array
    unit: str = ""  # "byte", "nJ", "count", "s" or none

    def __post_init__(self) -> None:
        self.values = self.values[~np.isnan(self.values)]
        self.mean = float(self.values.mean()) if self.values.size else float("nan")

    def cells(self) -> list[str]:
        """Return mean, min, max and, of amounts, the sum; only the mean of a single value."""
        spread = [self.values.min(), self.values.max()] if self.values.size > 1 else []
        amount = self.unit in (*STEPS, "count")
        total = [self.values.sum()] if spread and amount else []
        return [quantity(float(value), self.unit) for value in [self.mean, *spread, *total]]


def measures(run: Run) -> list[Measure]:
    """Return all measures of a run: models at the last evaluation, others at the last round."""
    measured = []
    last = [(phase, row) for phase in (0, 1) for row in run.rows(phase)[-1:]]
    own, mean_model = informative(run), f"mean_model_{run.primary}"
    for name in (*own, *([mean_model] if mean_model in run.eval else []), *ALWAYS):
        for phase, row in last:
            values = run.eval[name][:, row]
            measured.append(Measure(f"{name} after {PHASES[phase]}".replace("_", " "), values))
            if name in (mean_model, "consensus_distance"):  # the same on every peer
                measured[-1].values = measured[-1].values[:1]
    if f"validation_{run.primary}" in run.eval:
        for phase in sorted({phase for phase, _ in last}):
            label = f"{run.primary} at best validation after {PHASES[phase]}".replace("_", " ")
            measured.append(Measure(label, run.at_best_validation(phase)))
    if run.alignment:
        for row in run.aligned_rows()[-1:]:
            cosine = known_mean(run.alignment["cosine"][:, row], axis=1)
            measured.append(Measure("cosine with backpropagation, mean of weights", cosine))
    measured += oscillations(run, own)
    measured.append(Measure("training loss", run.last("loss")))
    for name, values in run.own.items():
        each = known_mean(values, axis=1)
        measured.append(Measure(f"{name.replace('_', ' ')}, mean of all rounds", each))
    measured.append(Measure("payload sent", run.last("bytes_sent"), "byte"))
    measured.append(Measure("messages sent", run.last("messages_sent"), "count"))
    measured += [Measure("virtual time", run.last("time"), "s")] if run.timed else []
    if "energy" in run.train and np.isfinite(energy := 1e6 * run.last("energy")).any():
        measured.append(Measure(f"energy in {run.precision}", energy, "nJ"))
    wall = run.last("wall")[run.done > 0].max(initial=0)
    rate = run.done.max() / wall if wall else np.nan
    measured.append(Measure("wall time", np.array([wall]), "s"))
    return [*measured, Measure("rounds per second", np.array([rate]))]


def known_mean(values: Array, axis: int) -> Array:
    """Return the mean of the numbers along an axis, without NaN; NaN where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about a mean of no numbers
        means: Array = np.nanmean(values, axis=axis)
    return means


def informative(run: Run) -> list[str]:
    """Return the metrics of /eval that are recorded and differ from the primary one.

    Without unseen classes, for instance, the accuracy on seen classes is the accuracy.
    """
    primary = run.eval[run.primary]
    return [
        name
        for name in run.metrics
        if name == run.primary or not (same(run.eval[name], primary) or empty(run.eval[name]))
    ]


def same(values: Array, others: Array) -> bool:
    """Return whether two columns hold the same numbers."""
    return np.array_equal(values, others, equal_nan=True)


def empty(values: Array) -> bool:
    """Return whether a column holds no number."""
    return bool(np.isnan(values).all())


def oscillations(run: Run, names: Sequence[str]) -> list[Measure]:
    """Return rise and fall in the second half of the rounds, for columns where both are known."""
    half = run.train["round"].shape[1] // 2 + 1
    measured = []
    for name in names:
        rise, fall = metrics.oscillation(run, name, first=half)
        for change, value in (("rise at consensus", rise), ("fall at local", fall)):
            if np.isfinite([rise, fall]).all():
                measured.append(Measure(f"{name.replace('_', ' ')}: {change}", np.array([value])))
    return measured


def quantity(value: float, unit: str = "") -> str:
    """Return a value with its unit, in the multiple of the unit that suits it, 4 digits."""
    if np.isnan(value) or np.isinf(value):
        return str(value)
    if unit in STEPS:
        names = STEPS[unit]
        power = min(len(names) - 1, int(np.log10(max(1, abs(value)))) // 3)
        return f"{value / 1000**power:.4g} {names[power]}"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "s" or not 1e-3 <= abs(value) < 10:
        return f"{value:.4g} {unit}".strip()
    return f"{value:.4f}"


def grid(rows: Sequence[Sequence[str]], numeric: bool = True) -> str:
    """Return rows as text in aligned columns; numeric: all columns but the first flush right."""
    from rich.console import Console
    from rich.table import Table as Grid

    table = Grid.grid(padding=(0, 3, 0, 0))
    for number in range(max(map(len, rows))):
        table.add_column(justify="right" if numeric and number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    page, width = io.StringIO(), max(80, shutil.get_terminal_size((100, 24)).columns)
    Console(file=page, width=width, markup=False, emoji=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def format_value(value: Any) -> str:
    """Return a value of the experiment file as text; a plug-in as name (parameter = value, ...)."""
    if not isinstance(value, dict):
        text = f"{value:.12g}" if isinstance(value, float) else str(value) or '""'
        return text.lower() if isinstance(value, bool) else text
    name = value.get("name", value.get("file", ""))
    rest = [f"{k} = {format_value(v)}" for k, v in value.items() if v != name]
    return f"{name} ({', '.join(rest)})" if rest else str(name)


def summary(folder: Path) -> str:
    """Return the experiment and its results as text tables."""
    run = read(folder)
    setting = [
        [key, format_value(run.experiment[key])]
        for key in ("algorithm", "topology", "data", "model")
        if key in run.experiment
    ]
    if "rule" in run.experiment["learning"]:
        rule = format_value(run.experiment["learning"]["rule"])
        setting.append(["learning rule", f"{rule}, in {run.precision}"])
    size = f"{run.attributes['peers']} peers, d = {run.attributes['parameters']:,}"
    setting.append(["size", f"{size}, {run.train['round'].shape[1]:,} rounds"])
    if run.cost:
        setting += map(list, cost_model.Account(**run.cost).words(run.precision).items())
    rows = [["", "mean", "min", "max", "in all"]]
    rows += [[measure.label, *measure.cells()] for measure in measures(run)]
    problems = [f"! {text}" for text in [*run.failures, *run.lost, *diverged(run)]]
    first = f"{run.experiment['name']}: {run.state}   {folder}"
    return "\n".join([first, grid(setting, numeric=False), "", grid(rows), *problems])


def diverged(run: Run) -> list[str]:
    """Return a warning if a complete run ended in NaN or infinity, or its loss is growing."""
    last = run.eval["loss"][:, -1:]
    # Before status "diverged" existed, such a run was done.
    if run.state == "diverged" or (run.state == "done" and not np.isfinite(last).all()):
        return [f"diverged: {first_divergence(run)} ({SMALLER_STEPS})"]
    loss = known_mean(run.train["loss"], axis=0)  # NaN for rounds without a gradient
    loss = loss[np.isfinite(loss)]
    if loss.size < 2 or loss[-1] <= GROWTH * abs(loss[0]):
        return []
    text = f"the training loss has grown from {loss[0]:.4g} to {loss[-1]:.4g}"
    return [f"{text}: diverging ({SMALLER_STEPS})"]


def first_divergence(run: Run) -> str:
    """Return in words which loss of which peers was NaN or infinite first, and in which round."""
    # A row without a local step has no training loss either.
    stepped = np.diff(run.train["step"], prepend=0, axis=1) > 0
    evaluated = np.isfinite(run.eval["round"])
    lost = {
        "training loss": (stepped & ~np.isfinite(run.train["loss"]), run.train["round"]),
        "test loss": (evaluated & ~np.isfinite(run.eval["loss"]), run.eval["round"]),
    }
    divergences = []
    for name, (bad, rounds) in lost.items():
        if bad.any():
            column = bad.any(axis=0).argmax()
            ranks = [str(rank) for rank in np.flatnonzero(bad[:, column])]
            divergences.append((int(np.nanmin(rounds[:, column])), name, ranks))
    if not divergences:
        return "the last model of a peer is not finite"
    round_, name, ranks = min(divergences)
    peers = f"peer{'s' * (len(ranks) > 1)} {results.enumerated(ranks)}"
    return f"the {name} of {peers} is not finite from round {round_} on"


def flat(table: Table) -> dict[str, str]:
    """Return the values of nested tables as {dotted key: text}."""
    return {key: format_value(value) for key, value in results.leaves(table).items()}


def differing(tables: Sequence[dict[str, str]]) -> list[str]:
    """Return the keys whose values are not the same in all tables."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return [key for key in keys if len({table.get(key) for table in tables}) > 1]


def compare(one: Path, two: Path) -> str:
    """Return the differences of two runs as text: keys of the experiment, measures, final x."""
    runs = [read(one), read(two)]
    software = ("mpi", "p2psim_version")
    settings = [
        {**flat(run.experiment), **{k: str(run.attributes[k]) for k in software}} for run in runs
    ]
    changes = [[key, *(table.get(key, "-") for table in settings)] for key in differing(settings)]
    a, b = ({measure.label: measure for measure in measures(run)} for run in runs)
    rows = [["", "A", "B", "B - A", "B / A"]]
    for label in dict.fromkeys([*a, *b]):
        rows.append([label, *difference(a.get(label), b.get(label))])
    heads = [f"{letter}  {run.path}: {run.state}" for letter, run in zip("AB", runs, strict=True)]
    table = "The experiments are equal."
    if changes:
        table = grid([["", "A", "B"], *changes], numeric=False)
    return "\n".join(
        [*heads, "", table, "", grid(rows), "", f"final vectors {compare_final(*runs)}"]
    )


def difference(a: Measure | None, b: Measure | None) -> list[str]:
    """Return both means, their difference and, of values with a unit, their ratio, as text."""
    texts = [quantity(side.mean, side.unit) if side else "-" for side in (a, b)]
    if not a or not b:
        return texts
    change = quantity(b.mean - a.mean, a.unit)
    ratio = [f"{b.mean / a.mean:.4g}"] if a.unit and a.mean else []
    return [*texts, change if change.startswith("-") else f"+{change}", *ratio]


def compare_final(one: Run, two: Run) -> str:
    """Compare the final vectors x of two runs; return the result in words."""
    if any(run.done.min() < run.train["round"].shape[1] for run in (one, two)):
        return "not compared: a run is incomplete"
    with open_run(one.path) as a, open_run(two.path) as b:
        x, y = column(a, "final/x"), column(b, "final/x")
    if x.shape != y.shape:
        return f"have different shapes: {x.shape} and {y.shape}"
    if x.dtype == y.dtype and x.tobytes() == y.tobytes():
        return "are equal bit for bit"
    return f"differ, an entry by at most {np.abs(x - y).max():.3g}"
