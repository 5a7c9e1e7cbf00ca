"""Figures of runs: accuracy against rounds, bytes and time, consensus, the graph, alignment.

matplotlib is an optional dependency and is imported where it is used. No function opens a window
or changes matplotlib's global state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from p2psim.analysis import results, tables
from p2psim.analysis.results import Array, Run
from p2psim.errors import InputError
from p2psim.simulation.run_format import PHASES

Axes: TypeAlias = Any  # matplotlib.axes.Axes, which is not imported at the top
Matrix: TypeAlias = NDArray[np.bool_]

# Okabe & Ito: distinguishable with any kind of color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", (0, (5, 1.2)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))  # the next one when colors run out
LOCAL = (0, (1.2, 1.2))  # after the local phase: dotted, and thinner
FORMATS = ("png", "svg", "pdf")
WEIGHTS = 16  # at most in the legend of the alignment
LABELED = 32  # peers at most whose ranks fit into the drawing
NODES, EDGES = "#37474F", "#90A4AE"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "p2psim",
}


def plot(paths: Sequence[Path], target: Path | None = None) -> Path:
    """Draw one figure of all runs, with a sweep's folder for all its runs; return the file."""
    runs = [results.read(run) for path in paths for run in results.expand(path)]
    target = target or default_target(paths[0])
    save(lambda: draw(runs), target)
    return target


def save(make: Callable[[], Any], target: Path) -> None:
    """Call `make` for a figure, in STYLE, and write it in the format of the target's suffix.

    InputError if the suffix is unknown, matplotlib is missing, or the file cannot be written.
    """
    kind = target.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        allowed = ", ".join(f".{name}" for name in FORMATS)
        raise InputError(f"--to {str(target)!r}: give a file name that ends in one of {allowed}")
    try:
        import matplotlib as mpl
    except ImportError:
        raise InputError("plot needs matplotlib: pip install 'p2psim[plot]'") from None
    with mpl.rc_context(STYLE):
        figure = make()
        try:
            # Without a date, equal runs give equal files.
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            figure.savefig(target, format=kind, metadata=metadata.get(kind))
        except OSError as error:
            raise InputError(f"cannot write {str(target)!r} ({error}); give another --to") from None


def default_target(path: Path) -> Path:
    """Return the path of figure.png in the run's folder."""
    return (path if path.is_dir() else path.parent) / "figure.png"


def draw(runs: Sequence[Run]) -> Any:
    """Return the figure of these runs: panels, and a legend of the runs below them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    timed = any(run.timed for run in runs)
    aligned = [run for run in runs if run.alignment]
    columns, rows = 3 if timed else 2, 3 if aligned else 2
    figure = Figure(
        figsize=(3.5 * columns, 3.1 * rows), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06)
    )
    grid = figure.add_gridspec(rows, columns)
    cells = [figure.add_subplot(grid[place]) for place in range(2 * columns - 1)]
    primaries = {run.primary for run in runs}
    measure = primaries.pop() if len(primaries) == 1 else "loss"
    for axes, against in zip(cells[:columns], ("round", "bytes", "time"), strict=False):
        panel(axes, runs, measure, against)
    if timed:
        training_panel(cells[3], runs)
    panel(cells[-1], runs, "consensus_distance", "round")
    graph_panels(figure, grid[1, columns - 1], runs)
    if aligned:
        alignment_panel(figure.add_subplot(grid[2, :]), aligned, runs)
    figure.suptitle(title(runs), x=0.01, ha="left", fontsize=10.5)
    add_line_legend(cells[0], runs)
    if len(runs) > 1:
        add_run_legend(figure, runs)
    return figure


def line_style(runs: Sequence[Run], index: int, phase: int) -> dict[str, Any]:
    """Return color by run and line by phase; a single run has a color per phase."""
    color = COLORS[(index if len(runs) > 1 else 1 - phase) % len(COLORS)]
    both = len(runs[index].rows(0)) and len(runs[index].rows(1))
    if phase == 0 and both:
        return {"color": color, "linestyle": LOCAL, "linewidth": 1.2}
    return {"color": color, "linestyle": LINES[index // len(COLORS) % len(LINES)]}


def panel(axes: Axes, runs: Sequence[Run], name: str, against: str) -> None:
    """Draw a column of /eval against rounds, bytes or time: mean over peers, range as a band."""
    ends = [positions(run, phase, against).max(initial=0) for run in runs for phase in (0, 1)]
    factor, label = scale(against, max(ends))
    for index, run in enumerate(runs):
        for phase in (0, 1):
            x, values = factor * positions(run, phase, against), run.eval[name][:, run.rows(phase)]
            if not np.isfinite(values).any() or (against == "time" and not run.timed):
                continue
            mean, low, high = spread(values)
            style = line_style(runs, index, phase)
            axes.plot(x, mean, marker="o" if x.size < 3 else None, markersize=3, **style)
            if style["linestyle"] != LOCAL and name != "consensus_distance":
                axes.fill_between(x, low, high, color=style["color"], alpha=0.16, linewidth=0)
    axes.set_xlabel(label)
    axes.set_ylabel(name.replace("_", " ") if "_" in name else f"test {name}")
    higher = any(run.better.get(name) == "higher" for run in runs)
    scale_axes(axes, logarithmic=not higher and name != "accuracy")


def positions(run: Run, phase: int, against: str) -> Array:
    """Return the x coordinates of the evaluations after this phase, in rounds, bytes or seconds."""
    rows = run.rows(phase)
    if against != "bytes":
        return spread(run.eval[against][:, rows])[0]
    # A model after the local phase of round r depends on the messages of the rounds before r.
    sent = np.concatenate([[0.0], spread(run.train["bytes_sent"])[0]])
    rounds = spread(run.eval["round"][:, rows])[0].astype(int)
    sent_until: Array = sent[rounds - (phase == 0)]
    return sent_until


def scale(against: str, largest: float) -> tuple[float, str]:
    """Return factor and label of an axis, in a unit that suits the largest value."""
    if against == "round":
        return 1.0, "round"
    if against == "time":
        units = [(1e3, "ms", 1.0), (1.0, "s", 7200.0), (1 / 3600, "h", np.inf)]
        factor, unit = next((f, u) for f, u, limit in units if largest < limit)
        return factor, f"virtual time ({unit})"
    powers = [(1.0, "byte"), (1e-3, "kB"), (1e-6, "MB"), (1e-9, "GB")]
    factor, unit = [(f, u) for f, u in powers if largest * f >= 1 or f == 1][-1]
    return factor, f"payload sent per peer ({unit})"


def spread(values: Array) -> tuple[Array, Array, Array]:
    """Return mean, minimum and maximum over the peers, NaN left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about columns of NaN only
        return np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0)


def scale_axes(axes: Axes, logarithmic: bool) -> None:
    """Scale the axes to their lines; without lines, write that nothing is recorded yet."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    lines = [np.asarray(line.get_ydata()) for line in axes.lines]
    if not lines:
        axes.text(0.5, 0.5, "nothing recorded yet", transform=axes.transAxes, ha="center")
        return
    values = np.concatenate(lines)
    values = values[np.isfinite(values) & (values > 0)]
    if not logarithmic or not values.size:
        return
    axes.set_yscale("log")
    if values.max() < 100 * values.min():  # few decades: plain numbers between the powers of ten
        few = values.max() < 5 * values.min()  # 1, 2, 5 would label one line, or none
        axes.yaxis.set_major_locator(LogLocator(subs=range(1, 10) if few else (1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def training_panel(axes: Axes, runs: Sequence[Run]) -> None:
    """Draw the training loss by round: mean over the peers and over blocks of rounds."""
    block = -(-max(int(run.done.max()) for run in runs) // 60) or 1
    for index, run in enumerate(runs):
        ends = np.arange(block, run.done.max() + 1, block)
        if ends.size:
            blocks = run.train["loss"][:, : ends[-1]].reshape(len(run.done), -1, block)
            axes.plot(
                ends,
                spread(np.moveaxis(blocks, 1, 2).reshape(-1, ends.size))[0],
                **line_style(runs, index, 1),
            )
    axes.set_xlabel("round")
    axes.set_ylabel("training loss" + (f" (mean of {block} rounds)" if block > 1 else ""))
    scale_axes(axes, logarithmic=True)


def alignment_panel(axes: Axes, aligned: Sequence[Run], runs: Sequence[Run]) -> None:
    """Draw the cosines of the gradients with those of backpropagation: a line for each weight.

    They are means over the peers. The weights of a single run are numbered from the inputs, those
    that its rule trains; of several runs, each has its color in `runs`.
    """
    for run in aligned:
        rows = run.aligned_rows()
        rounds = run.alignment["round"][0, rows]
        cosines = run.alignment["cosine"][:, rows].mean(axis=0).T
        color = COLORS[list(runs).index(run) % len(COLORS)]
        for number, values in enumerate(cosines):
            own = {"color": COLORS[number % len(COLORS)]} if len(aligned) == 1 else {"color": color}
            label = f"weight {number + 1}" if len(aligned) == 1 and number < WEIGHTS else None
            axes.plot(rounds, values, linestyle=LINES[number % len(LINES)], label=label, **own)
    axes.set(xlabel="round", ylabel="cosine with backpropagation")
    axes.set_ylim(top=1.02)
    if len(aligned) == 1:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def graph_panels(figure: Any, cell: Any, runs: Sequence[Run]) -> None:
    """Draw the different graphs of the runs, at most four."""
    by_graph: dict[bytes, Run] = {}
    for run in runs:
        by_graph.setdefault(union_graph(run).tobytes(), run)
    different = list(by_graph.values())[:4]
    side = 1 if len(different) == 1 else 2
    inner = cell.subgridspec(-(-len(different) // side), side)
    for place, run in zip(inner, different, strict=False):
        axes = figure.add_subplot(place)
        table, period = run.experiment["topology"], len(run.weights)
        name = Path(str(table.get("name", table.get("file")))).name
        text = f"{name}, n = {len(run.done)}"
        text += f"\nunion of {period} steps" if period > 1 else ""
        axes.set_title(text, loc="center", fontsize=9 if side == 1 else 7.5)
        draw_graph(axes, union_graph(run), room=1 / side)


def union_graph(run: Run) -> Matrix:
    """Return the union of the graphs of all steps, (n, n), row = receiver, without self-loops."""
    links: Matrix = (run.weights != 0).any(axis=0)
    return links & ~np.eye(len(links), dtype=bool)


def draw_graph(axes: Axes, links: Matrix, room: float) -> None:
    """Draw peers on a circle, clockwise from the top; room: the panel's share of a full panel."""
    from matplotlib.collections import LineCollection

    n = len(links)
    angle = 2 * np.pi * np.arange(n) / n
    points = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    both, one_way = np.argwhere(np.triu(links & links.T)), np.argwhere(links & ~links.T)
    width = float(np.clip(90 * room / max(1, len(both) + len(one_way)), 0.15, 1.3))
    size = float(np.clip(3600 * room**2 / n, 4, 190 * room))
    # Up to 300 directed edges are drawn as arrows below, more as lines.
    lines = both if len(one_way) <= 300 else np.concatenate([both, one_way])
    # Half a million lines as vectors would make a file that no viewer opens.
    rasterized = len(lines) > 5000
    axes.add_collection(
        LineCollection(
            points[lines], colors=EDGES, linewidths=width, zorder=1, rasterized=rasterized
        )
    )
    for receiver, sender in one_way if len(one_way) <= 300 else []:
        arrow = {"arrowstyle": "-|>", "mutation_scale": 4 + 6 * width * room, "color": EDGES}
        arrow |= {"linewidth": width, "shrinkA": size**0.5 / 2, "shrinkB": size**0.5 / 2}
        axes.annotate("", points[receiver], points[sender], arrowprops=arrow, zorder=1)
    axes.scatter(*points.T, s=size, color=NODES, edgecolors="white", linewidths=0.6, zorder=3)
    for rank, point in enumerate(points if n <= LABELED * room else []):
        text = {"color": "white", "ha": "center", "va": "center_baseline", "zorder": 4}
        axes.text(*point, str(rank), fontsize=0.55 * size**0.5, **text)
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
    axes.axis("off")


def title(runs: Sequence[Run]) -> str:
    """Return the facts that all runs share; of a single run that is not done, also its state."""
    shared = []
    for fact in zip(*map(facts, runs), strict=True):
        shared += [fact[0]] if len(set(fact)) == 1 else []
    state = runs[0].state if len(runs) == 1 else "done"
    return " · ".join([*shared, *([state] if state != "done" else [])])


def facts(run: Run) -> list[str]:
    """Return a run's name, algorithm, topology, data set, peers and parameters as text."""
    table, n = run.experiment, run.attributes["peers"]
    names = [str(table[part].get("name", "own graph")) for part in ("algorithm", "topology")]
    data = str(table["data"]["name"])
    return [str(table["name"]), *names, data, f"{n} peers", f"d = {run.attributes['parameters']:,}"]


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a label of each run: the keys that differ, or the folder where they do not suffice."""
    experiments = [tables.flat(run.experiment) for run in runs]
    keys = [name for name in tables.differing(experiments) if is_informative(name, experiments)]
    texts = [
        ", ".join(f"{name.removesuffix('.name')} = {table[name]}" for name in keys if name in table)
        for table in experiments
    ]
    if "" in texts or len(set(texts)) < len(texts):
        folders = [results.run_path(run.path).resolve().parent.name for run in runs]
        texts = folders if len(set(folders)) == len(runs) else [str(run.path) for run in runs]
    states = [f" [{run.state}]" if run.state != "done" else "" for run in runs]
    return [text + state for text, state in zip(texts, states, strict=True)]


def is_informative(name: str, tables: Sequence[dict[str, str]]) -> bool:
    """Return True if a key distinguishes more runs than the name of the plug-in it belongs to."""
    if name == "name" or name.startswith("eval."):
        return False  # neither changes what was computed
    parts = name.split(".")
    for depth in range(1, len(parts)):
        owner = ".".join([*parts[:depth], "name"])
        groups = {(table.get(owner), table.get(name)) for table in tables}
        plugins = {table.get(owner) for table in tables}
        if owner != name and 1 < len(plugins) == len(groups):
            return False
    return True


def add_line_legend(axes: Axes, runs: Sequence[Run]) -> None:
    """Add the legend of line kinds and the band to a panel."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    gray: Any = {"color": "#555555"} if len(runs) > 1 else {}
    items: list[Any] = []
    for phase in (1, 0):
        index = next((k for k, run in enumerate(runs) if len(run.rows(phase))), None)
        if index is not None:
            style = line_style(runs, index, phase) | gray
            items.append(Line2D([], [], label=f"after {PHASES[phase]}, mean", **style))
    if items:
        items.append(Patch(color=items[0].get_color(), alpha=0.16, lw=0, label="range over peers"))
        axes.legend(handles=items, fontsize=8, handlelength=2.4)


def add_run_legend(figure: Any, runs: Sequence[Run]) -> None:
    """Add the legend of the runs' colors below the panels."""
    from textwrap import fill

    from matplotlib.lines import Line2D

    names = [name.replace(" = ", "\u00a0=\u00a0") for name in labels(runs)]  # unbreakable
    room = int(figure.get_figwidth() * 12)  # characters
    columns = max(1, min(len(runs), room // (max(map(len, names)) + 8)))
    items = [
        Line2D([], [], label=fill(name, room), **line_style(runs, index, 1))
        for index, name in enumerate(names)
    ]
    figure.legend(handles=items, loc="outside lower center", ncols=columns)
