"""All checks, and the table that shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from p2psim.errors import InputError
from p2psim.launcher.doctor import machine, mpi, software
from p2psim.launcher.doctor.finding import OK, PROBLEM, WARNING, Check, Finding, Plan, guarded

COLORS = {OK: "green", WARNING: "yellow", PROBLEM: "bold red"}


def examine(experiment: Path | None, settings: tuple[str, ...], out: Path | None) -> int:
    """Show what all checks find; the exit code: that of wrong input where there is a problem."""
    code = 0
    with display() as show:
        for finding in findings(experiment, settings, out):
            show(finding)
            code = InputError.exit_code if finding.level == PROBLEM else code
    return code


@contextmanager
def display() -> Iterator[Callable[[Finding], None]]:
    """Takes findings one by one: into a table on a terminal, else each on a plain line."""
    if not sys.stdout.isatty():
        yield lambda found: print(f"{found.level:<9}{found.check:<15}{found.text}", flush=True)
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    with Live(table, auto_refresh=False) as live:

        def add(found: Finding) -> None:
            level = Text(found.level, COLORS[found.level])
            table.add_row(level, Text(found.check), Text(found.text, overflow="fold"))
            live.refresh()

        yield add


def findings(
    experiment: Path | None, settings: tuple[str, ...], out: Path | None
) -> Iterator[Finding]:
    """In the order to show them; what mostly waits for other programs goes on meanwhile."""
    together = [*guarded("mpiexec", mpi.mpiexec), *guarded("mpi4py", mpi.mpi4py)]
    yield from together
    apart = any(found.level == PROBLEM for found in together)
    with ThreadPoolExecutor() as pool:
        made = later if apart else guarded
        launch = pool.submit(made, "launch", mpi.launch)
        slurm = pool.submit(guarded, "Slurm", mpi.slurm)
        torch = pool.submit(made, "torch", software.torch)
        plan, problems = software.plan(experiment, settings, out)
        yield from launch.result()
        yield from slurm.result()
        yield from problems
        for name, check in checks(plan):
            yield from guarded(name, check)
        yield from torch.result()
    yield from guarded("data sets", software.data_sets)


def later(name: str, _: Check) -> list[Finding]:
    """In place of a check that takes seconds, where it is known already that nothing can run."""
    return [Finding(WARNING, name, "not tried before MPI is mended, see above")]


def checks(plan: Plan) -> Sequence[tuple[str, Check]]:
    """Those that look at the machine only."""
    return [
        ("cores", partial(mpi.cores, plan)),
        ("memory", partial(machine.memory, plan)),
        ("shared memory", partial(machine.shared_memory, plan)),
        ("leftovers", machine.leftovers),
        ("run folder", partial(machine.files, plan)),
    ]
