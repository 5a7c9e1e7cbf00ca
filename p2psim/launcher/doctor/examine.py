"""All checks of the doctor, and the table that shows their findings."""

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
from p2psim.launcher.doctor.finding import (
    OK,
    PROBLEM,
    WARNING,
    Check,
    Examination,
    Finding,
    run_check,
)

COLORS = {OK: "green", WARNING: "yellow", PROBLEM: "bold red"}


def examine(experiment: Path | None, settings: tuple[str, ...], out: Path | None) -> int:
    """Show the findings of all checks; returns the exit code, which is not 0 after a problem."""
    code = 0
    with display() as show:
        for finding in findings(experiment, settings, out):
            show(finding)
            code = InputError.exit_code if finding.level == PROBLEM else code
    return code


@contextmanager
def display() -> Iterator[Callable[[Finding], None]]:
    """Yield a function that shows a finding: in a table on a terminal, else as a line of text."""
    if not sys.stdout.isatty():
        yield lambda finding: print(
            f"{finding.level:<9}{finding.check:<15}{finding.text}", flush=True
        )
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    with Live(table, auto_refresh=False) as live:

        def add(finding: Finding) -> None:
            level = Text(finding.level, COLORS[finding.level])
            table.add_row(level, Text(finding.check), Text(finding.text, overflow="fold"))
            live.refresh()

        yield add


def findings(
    experiment: Path | None, settings: tuple[str, ...], out: Path | None
) -> Iterator[Finding]:
    """Yield the findings of all checks, in the order to show them.

    Checks that wait for other programs run in threads meanwhile.
    """
    # First, because the slow checks are useless if MPI is broken.
    libraries = [*run_check("mpiexec", mpi.mpiexec), *run_check("mpi4py", mpi.mpi4py)]
    yield from libraries
    mpi_is_broken = any(finding.level == PROBLEM for finding in libraries)
    with ThreadPoolExecutor() as pool:
        run_slow_check = skip_check if mpi_is_broken else run_check
        launch = pool.submit(run_slow_check, "launch", mpi.launch)
        slurm = pool.submit(run_check, "Slurm", mpi.slurm)
        torch = pool.submit(run_slow_check, "torch", software.torch)
        examination, problems = software.load_experiment(experiment, settings, out)
        yield from launch.result()
        yield from slurm.result()
        yield from problems
        for name, check in checks(examination):
            yield from run_check(name, check)
        yield from torch.result()
    yield from run_check("data sets", software.data_sets)


def skip_check(name: str, _: Check) -> list[Finding]:
    """Return the finding of a slow check that is skipped, because no run is possible anyway."""
    return [Finding(WARNING, name, "not checked, because MPI has a problem, see above")]


def checks(examination: Examination) -> Sequence[tuple[str, Check]]:
    """Return the (name, check) pairs that examine only the machine."""
    return [
        ("cores", partial(mpi.cores, examination)),
        ("memory", partial(machine.memory, examination)),
        ("shared memory", partial(machine.shared_memory, examination)),
        ("leftovers", machine.leftovers),
        ("run folder", partial(machine.files, examination)),
    ]
