"""A reproduction as a page: report.md, and the same as report.html."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p2psim import __version__
from p2psim.analysis.results import Run

REPORTS = ("report.md", "report.html")
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { border: 1px solid #ccc; padding: 0.3em 0.6em; text-align: left; vertical-align: top; }
img { max-width: 100%; }
code, pre { background: #f4f4f4; }
pre { padding: 0.8em; overflow-x: auto; }
"""


def write(title: str, command: str, done: Sequence[Any], out: Path) -> Path:
    """Write both files into `out`; `done` are the figures' experiments.harness.reproduce.Done."""
    text = markdown(title, command, done)
    for name, content in zip(REPORTS, (text, html(title, text)), strict=True):
        (out / name).write_text(content, encoding="utf-8")
    return out / REPORTS[0]


def markdown(title: str, command: str, done: Sequence[Any]) -> str:
    """The claims first, then every figure with what made it."""
    claims = [(one.figure.name, claim) for one in done for claim in one.claims]
    failed = sum(not claim.holds for _, claim in claims)
    verdict = f"**{failed} of {len(claims)} claims do not hold.**" if failed else "All claims hold."
    wall = sum(one.wall for one in done)
    lines = [
        f"# {title}",
        "",
        f"{verdict} {setting(done)} {time(wall)} in all.",
        "",
        f"    {command}",
        "",
        *table(
            ["", "must be seen", "paper or reference", "here", ""],
            [
                [name, claim.text, claim.paper, claim.ours, verdict_of(claim.holds)]
                for name, claim in claims
            ],
        ),
    ]
    for one in done:
        lines += [
            "",
            f"## {one.figure.name}: {one.figure.title}",
            "",
            f"![{one.figure.title}]({one.figure.name}.png)",
            "",
            f"{size(one)}; {time(one.wall)}, at most {one.memory:.1f} GB in all processes.",
            "",
            f"    {one.command}",
        ]
    return "\n".join(lines) + "\n"


def verdict_of(holds: bool) -> str:
    """A claim's last cell."""
    return "holds" if holds else "**does not hold**"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def setting(done: Sequence[Any]) -> str:
    """Which software and machine."""
    run: Run = next(iter(done[0].runs.values()))[0]
    cores = len(os.sched_getaffinity(0))
    return f"p2psim {__version__}, {run.attributes['mpi']}, {platform.machine()}, {cores} cores."


def size(one: Any) -> str:
    """How many runs of what, and which are another figure's."""
    shared = one.figure.shared
    every = [run for case, group in one.runs.items() if case not in shared for run in group]
    peers = sorted({int(run.attributes["peers"]) for run in every})
    parameters = sorted({int(run.attributes["parameters"]) for run in every})
    return (
        f"{len(every)} runs of {' or '.join(map(str, peers))} peers, "
        f"d = {' or '.join(f'{d:,}' for d in parameters)}"
        + "".join(f"; {case} is {there} of {name}" for case, (name, there) in shared.items())
    )


def time(seconds: float) -> str:
    """Wall time for people."""
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def html(title: str, text: str) -> str:
    """The same page for a browser; its pictures stay beside it."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    head = f"<meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    return f"<!doctype html>\n<html><head>{head}</head><body>\n{body}</body></html>\n"
