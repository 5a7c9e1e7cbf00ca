"""Reproduction of a paper: run its experiments, draw its figures, check its claims, write a report.

    python -m experiments.harness.reproduce PAPER [--data digits] [--out OUT]

PAPER is a package of `experiments` with hyphens for underscores. Its module `figures` defines TITLE
and FIGURES, a dictionary from the name of a data set to a list of `Figure`. Runs are stored in
OUT/NAME/LABEL. A second call skips the runs that are complete and resumes those that were
interrupted. The reports are OUT/report.md and OUT/report.html.

Exit codes: 0 if all claims hold, 1 if a claim does not hold, 2 if data or software is missing,
otherwise that of `p2psim run` (make replaces each of them by 2).
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import experiments
from experiments.harness.report import REPORTS, write
from experiments.harness.sweeps import Sweep, costs, run_all
from p2psim.analysis import plots, results
from p2psim.errors import STOPPED, InputError
from p2psim.experiment import config, scenario
from p2psim.experiment.sweep import combinations
from p2psim.simulation import run_file, run_folder

Runs: TypeAlias = dict[str, list[results.Run]]  # one list for each case, one run for each seed


@dataclass(frozen=True)
class Claim:
    """Statement of a paper about a figure, its value in the paper, and the value measured here."""

    text: str
    paper: str
    ours: str
    holds: bool


@dataclass(frozen=True)
class Figure:
    """One experiment file of a paper, with the drawing and the claims that its runs support."""

    name: str  # of the folder of runs, of the picture, and of the section of the report
    title: str
    file: str  # relative to the paper's folder
    draw: Callable[[Any, Runs], None]  # draws the runs onto a matplotlib figure
    claims: Callable[[Runs], list[Claim]]
    size: tuple[float, float] = (10, 4)  # inches
    # Cases taken from earlier figures: case of this figure -> (name of that figure, its case).
    shared: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    # All peers are threads of one process: short runs of one peer start faster without MPI, and
    # several figures are run at a time.
    debug: bool = False
    # Rows of a table below the picture, the header first.
    table: Callable[[Runs], Iterable[Sequence[str]]] | None = None


@dataclass
class Reproduced:
    """A figure with its runs, its claims, and the cost of its runs on this machine."""

    figure: Figure
    command: str  # as a user types it
    runs: Runs
    claims: list[Claim]
    table: list[Sequence[str]]  # header and rows, or empty
    wall: float  # seconds
    memory: float  # GB, largest sum over all processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Complete the runs of a paper, then draw, check and report; return the exit code."""
    parser = argparse.ArgumentParser(prog="reproduce")
    parser.add_argument("paper", choices=papers())
    parser.add_argument("--data", help="data set that the experiments are for")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    paper: Any = importlib.import_module(f"experiments.{package(options.paper)}.figures")
    data = options.data or next(iter(paper.FIGURES))
    if data not in paper.FIGURES:
        parser.error(f"DATA = {data}: give one of {', '.join(paper.FIGURES)}")
    out = options.out or Path("runs") / options.paper / data
    try:
        rows = reproduce_all(paper.FIGURES[data], Path(paper.__file__).parent, out)
    except InputError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        if "P2PSIM_DATA" in str(error):
            others = " or ".join(f"DATA={name}" for name in paper.FIGURES if name != data)
            print(f"reproduce: without that data set use {others}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("reproduce: stopped; the same command resumes the runs", file=sys.stderr)
        return STOPPED
    report = write(paper.TITLE, f"make reproduce-{options.paper} DATA={data}", rows, out)
    for row in rows:
        for claim in row.claims:
            verdict = "holds" if claim.holds else "FAILS"
            print(f"{verdict}: {row.figure.name}: {claim.text} ({claim.ours})")
    print(report)
    return int(not all(claim.holds for row in rows for claim in row.claims))


def papers() -> list[str]:
    """Return the names of all papers that can be reproduced."""
    files = [file for root in experiments.__path__ for file in Path(root).glob("*/figures.py")]
    return sorted(file.parent.name.replace("_", "-") for file in files)


def package(paper: str) -> str:
    """Return the name of a paper's package, below `experiments`."""
    return paper.replace("-", "_")


def reproduce_all(figures: Sequence[Figure], folder: Path, out: Path) -> list[Reproduced]:
    """Reproduce the figures whose experiment files are in `folder`, in their order.

    Raises InputError if an experiment cannot run here or if `out` has runs of another experiment.
    """
    # All experiments are checked before the first one starts: a run may take hours.
    incomplete = [is_incomplete(folder / figure.file, out / figure.name) for figure in figures]
    if any(incomplete):  # a report that is older than the new runs would describe other runs
        for name in REPORTS:
            (out / name).unlink(missing_ok=True)
    sweeps = [sweep_of(figure, folder, out) for figure in figures]
    run_all([sweep for sweep, start in zip(sweeps, incomplete, strict=True) if start])
    rows: dict[str, Reproduced] = {}
    for figure, sweep in zip(figures, sweeps, strict=True):
        rows[figure.name] = reproduce(figure, sweep, folder, rows)
    return [*rows.values()]


def sweep_of(figure: Figure, folder: Path, out: Path) -> Sweep:
    """Return the sweep of a figure whose experiment file is in `folder`."""
    # The report prints this command, so the path is relative to the checkout.
    file, place = (folder / figure.file).relative_to(folder.parents[1]), out / figure.name
    command = ["p2psim", "run", str(file), "--out", str(place), *["--debug"] * figure.debug]
    return Sweep(command, place, figure.debug)


def is_incomplete(file: Path, place: Path) -> bool:
    """Return True if runs of an experiment file are missing or incomplete in the folder `place`.

    Raises InputError if the experiment cannot run here or if `place` has runs of another one.
    """
    incomplete = False
    for label, table in combinations(config.read(file)):
        setup, exists = scenario.load(table, file.parent), (place / label / "run.h5").exists()
        if exists:
            check_run(run_folder.check_same, place / label, setup)
        incomplete |= not exists or not run_file.is_complete(place / label)
    return incomplete


def check_run(check: Callable[..., object], run: Path, *arguments: object) -> None:
    """Call check(run, *arguments); extend its InputError with the way to start the run anew."""
    try:
        check(run, *arguments)
    except InputError as error:
        raise InputError(f"{error} (here: remove {str(run)!r})") from None


def check_rows(folder: Path, run: results.Run) -> None:
    """Raise InputError if a complete run lacks rows of some peers."""
    if lost := np.flatnonzero(~(run.train["round"] > 0).all(axis=1)).tolist():
        raise InputError(f"the run in {str(folder)!r} has lost rows of peers {lost}")


def reproduce(
    figure: Figure, sweep: Sweep, folder: Path, earlier: Mapping[str, Reproduced]
) -> Reproduced:
    """Read the complete runs of a figure, draw its picture and check its claims.

    `earlier` has the figures that share their cases.
    """
    place = sweep.place
    runs: Runs = {}
    for label, _ in combinations(config.read(folder / figure.file)):
        case = re.sub(r"-?\bseed=\d+-?", "", label) or figure.name
        loaded = results.read(place / label)
        check_run(check_rows, place / label, loaded)
        runs.setdefault(case, []).append(loaded)
    runs |= {case: earlier[name].runs[other] for case, (name, other) in figure.shared.items()}
    save_picture(figure, runs, place.with_name(f"{figure.name}.png"))
    table = [*figure.table(runs)] if figure.table else []
    return Reproduced(
        figure, " ".join(sweep.command), runs, figure.claims(runs), table, **costs(place)
    )


def save_picture(figure: Figure, runs: Runs, target: Path) -> None:
    """Draw a figure and write the picture into the file `target`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(plots.STYLE):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas, runs)
        canvas.savefig(target)


if __name__ == "__main__":
    sys.exit(main())
