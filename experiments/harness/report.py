"""Report of a reproduction: report.md, and the same page as report.html."""

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


def write(title: str, command: str, rows: Sequence[Any], out: Path) -> Path:
    """Write both files into `out` and return the path of report.md.

    `rows` are `experiments.harness.reproduce.Reproduced`, one for each figure.
    """
    text = markdown(title, command, rows)
    for name, content in zip(REPORTS, (text, html(title, text)), strict=True):
        (out / name).write_text(content, encoding="utf-8")
    return out / REPORTS[0]


def markdown(title: str, command: str, rows: Sequence[Any]) -> str:
    """Return the report as Markdown: all claims, then each figure with its command and cost."""
    claims = [(row.figure.name, claim) for row in rows for claim in row.claims]
    failed = sum(not claim.holds for _, claim in claims)
    verdict = f"**{failed} of {len(claims)} claims do not hold.**" if failed else "All claims hold."
    wall = sum(row.wall for row in rows)
    lines = [
        f"# {title}",
        "",
        f"{verdict} {software(rows)} {duration(wall)} in all.",
        "",
        f"    {command}",
        "",
        *table(
            ["", "must be seen", "paper or reference", "here", ""],
            [
                [name, claim.text, claim.paper, claim.ours, verdict_cell(claim.holds)]
                for name, claim in claims
            ],
        ),
    ]
    for row in rows:
        lines += [
            "",
            f"## {row.figure.name}: {row.figure.title}",
            "",
            f"![{row.figure.title}]({row.figure.name}.png)",
            "",
            *([*table(row.table[0], row.table[1:]), ""] if row.table else []),
            f"{size(row)}; {duration(row.wall)}, at most {row.memory:.1f} GB in all processes.",
            "",
            f"    {row.command}",
        ]
    return "\n".join(lines) + "\n"


def verdict_cell(holds: bool) -> str:
    """Return the last cell of a claim's row."""
    return "holds" if holds else "**does not hold**"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def software(rows: Sequence[Any]) -> str:
    """Return the versions of the software and the size of the machine as a sentence."""
    run: Run = next(iter(rows[0].runs.values()))[0]
    cores = len(os.sched_getaffinity(0))
    return f"p2psim {__version__}, {run.attributes['mpi']}, {platform.machine()}, {cores} cores."


def size(row: Any) -> str:
    """Return the number of runs, peers and parameters, and the cases taken from other figures."""
    shared = row.figure.shared
    own = [run for case, group in row.runs.items() if case not in shared for run in group]
    peers = sorted({int(run.attributes["peers"]) for run in own})
    parameters = sorted({int(run.attributes["parameters"]) for run in own})
    return (
        f"{len(own)} runs of {' or '.join(map(str, peers))} peers, "
        f"d = {' or '.join(f'{d:,}' for d in parameters)}"
        + "".join(f"; {case} is {other} of {name}" for case, (name, other) in shared.items())
    )


def duration(seconds: float) -> str:
    """Format a wall time in minutes or seconds."""
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def html(title: str, text: str) -> str:
    """Return the Markdown text as an HTML page that refers to the pictures beside it."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    head = f"<meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    return f"<!doctype html>\n<html><head>{head}</head><body>\n{body}</body></html>\n"
