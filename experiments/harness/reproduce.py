"""Reproduce a paper: run its experiments, draw its figures, check its claims, write a report.

    python -m experiments.harness.reproduce PAPER [--data digits] [--out OUT]

PAPER is a folder beside this file. Its `figures.py` has `TITLE`, and by data set in `FIGURES` what
there is to reproduce (see `Figure`). Runs are kept in OUT/NAME: what is done is not run again, what
was interrupted goes on. OUT/report.md and report.html come out; ends with 1 where a claim does not
hold, with 2 where something is missing, otherwise as `p2psim run` does (make makes a 2 of all).
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import experiments
from experiments.harness.report import REPORTS, write
from p2psim.analysis import plots, results
from p2psim.errors import STOPPED, InputError
from p2psim.experiment import config, scenario
from p2psim.experiment.sweep import combinations
from p2psim.launcher.processes import members, memory
from p2psim.simulation import recorder, run_folder

SAMPLE = 5.0  # seconds between two looks at the memory
COSTS = "cost.json"
Runs: TypeAlias = dict[str, list[results.Run]]  # by case, one for each seed


@dataclass(frozen=True)
class Claim:
    """What must be seen: in the paper and here."""

    text: str
    paper: str
    ours: str
    holds: bool


@dataclass(frozen=True)
class Figure:
    """One experiment file of a paper, and what is made of its runs."""

    name: str  # of the runs' folder, the picture and the section of the report
    title: str
    file: str  # relative to the paper's folder
    draw: Callable[[Any, Runs], None]  # onto a matplotlib figure
    claims: Callable[[Runs], list[Claim]]
    size: tuple[float, float] = (10, 4)  # inches
    # Cases that figures before this one have: name here -> name of the figure and name there.
    shared: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class Done:
    """A figure's runs, and what they took: seconds of wall time and GB, both of this machine."""

    figure: Figure
    command: str
    runs: Runs
    claims: list[Claim]
    wall: float
    memory: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left, then draw, check and write."""
    parser = argparse.ArgumentParser(prog="reproduce")
    parser.add_argument("paper", choices=papers())
    parser.add_argument("--data", help="data set that the experiments are for")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    paper: Any = importlib.import_module(f"experiments.{package(given.paper)}.figures")
    data = given.data or next(iter(paper.FIGURES))
    if data not in paper.FIGURES:
        parser.error(f"DATA = {data}: give one of {', '.join(paper.FIGURES)}")
    out = given.out or Path("runs") / given.paper / data
    figures: list[Figure] = paper.FIGURES[data]
    folder, done = Path(paper.__file__).parent, dict[str, Done]()
    try:
        # All, before the first runs.
        left = [check(folder / figure.file, out / figure.name) for figure in figures]
        if any(left):  # what they say is not about what comes out now
            for name in REPORTS:
                (out / name).unlink(missing_ok=True)
        for figure, some in zip(figures, left, strict=True):
            done[figure.name] = reproduce(figure, some, folder, out, done)
    except InputError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        if "P2PSIM_DATA" in str(error):
            others = " or ".join(f"DATA={name}" for name in paper.FIGURES if name != data)
            print(f"reproduce: without that data set there is {others}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("reproduce: stopped; the same command goes on", file=sys.stderr)
        return STOPPED
    report = write(paper.TITLE, f"make reproduce-{given.paper} DATA={data}", [*done.values()], out)
    for one in done.values():
        for claim in one.claims:
            mark = "holds" if claim.holds else "FAILS"
            print(f"{mark}: {one.figure.name}: {claim.text} ({claim.ours})")
    print(report)
    return int(not all(claim.holds for one in done.values() for claim in one.claims))


def papers() -> list[str]:
    """What can be reproduced."""
    files = [file for place in experiments.__path__ for file in Path(place).glob("*/figures.py")]
    return sorted(file.parent.name.replace("_", "-") for file in files)


def package(paper: str) -> str:
    """Return the name of the package of a paper, below `experiments`."""
    return paper.replace("-", "_")


def check(file: Path, place: Path) -> bool:
    """Whether runs are left to do. InputError where one cannot be done here, or was another."""
    left = False
    for label, table in combinations(config.read(file)):
        ready, begun = scenario.load(table, file.parent), (place / label / "run.h5").exists()
        if begun:
            anew(run_folder.check_same, place / label, ready)
        left |= not begun or recorder.status(place / label) != "done"
    return left


def anew(check: Callable[..., object], run: Path, *rest: object) -> None:
    """InputError that says how to start again, where a check of a run fails."""
    try:
        check(run, *rest)
    except InputError as error:
        raise InputError(f"{error} (here: remove {str(run)!r})") from None


def check_whole(run: Path, found: results.Run) -> None:
    """InputError where rows of a run that is done are gone."""
    if lost := np.flatnonzero(~(found.train["round"] > 0).all(axis=1)).tolist():
        raise InputError(f"the run in {str(run)!r} has lost rows of peers {lost}")


def reproduce(
    figure: Figure, left: bool, folder: Path, out: Path, before: Mapping[str, Done]
) -> Done:
    """Run what is left of an experiment and make its picture; SystemExit if a run fails."""
    file, place = folder / figure.file, out / figure.name
    command = ["p2psim", "run", str(file.relative_to(folder.parents[1])), "--out", str(place)]
    if left:
        run(command, place)
    runs: Runs = {}
    for label, _ in combinations(config.read(file)):
        case = re.sub(r"-?\bseed=\d+-?", "", label) or figure.name
        found = results.read(place / label)
        anew(check_whole, place / label, found)
        runs.setdefault(case, []).append(found)
    runs |= {case: before[name].runs[there] for case, (name, there) in figure.shared.items()}
    picture(figure, runs, out / f"{figure.name}.png")
    return Done(figure, " ".join(command), runs, figure.claims(runs), **costs(place))


def run(command: list[str], place: Path) -> None:
    """Run the experiment, or go on with it; SystemExit if that fails."""
    resume = ["--resume"] if any(place.glob("**/run.h5")) else []
    with subprocess.Popen(
        [sys.executable, "-m", *command, *resume], stdout=subprocess.DEVNULL
    ) as process:
        # A Ctrl-C reaches it as well; to be stopped by a signal is for it to answer, too.
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            note_costs(process, place)
        except KeyboardInterrupt:
            process.wait()  # for its checkpoint
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if process.returncode == STOPPED:
        raise KeyboardInterrupt
    if process.returncode:
        sys.exit(process.returncode)


def note_costs(process: subprocess.Popen[bytes], place: Path) -> None:
    """Until it ends, add to what the runs in this folder have taken: it may be killed any time."""
    before, began = costs(place), time.monotonic()
    peak = before["memory"]
    while process.poll() is None:
        peak = max(peak, sum(map(memory, members(process.pid))))
        spent = before["wall"] + time.monotonic() - began
        if place.is_dir():
            (place / COSTS).write_text(json.dumps({"wall": spent, "memory": peak}))
        try:
            process.wait(SAMPLE)
        except subprocess.TimeoutExpired:
            continue


def costs(place: Path) -> dict[str, float]:
    """Seconds of wall time and GB that the runs in a folder have taken so far."""
    file = place / COSTS
    return json.loads(file.read_text()) if file.exists() else {"wall": 0.0, "memory": 0.0}


def picture(figure: Figure, runs: Runs, target: Path) -> None:
    """Draw the figure into a file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(plots.STYLE):
        drawn = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(drawn, runs)
        drawn.savefig(target)


if __name__ == "__main__":
    sys.exit(main())
