"""The commands. Thin: each reads its arguments, calls one function, prints what it returns."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2psim import __version__
from p2psim.errors import STOPPED, AbortedError, InputError, PeerError
from p2psim.launcher import environment, ranks, slurm

if TYPE_CHECKING:
    from p2psim.launcher.runner import Request


def guarded(body: Callable[[], Any], traceback: bool = False) -> Any:
    """Call it, and turn the user's mistakes into one sentence and an exit code."""
    try:
        return body()
    except (InputError, PeerError, AbortedError) as error:
        if traceback:
            raise
        # Every rank finds the same mistake: one of them says it.
        first = (environment.mpi_rank() or (0, 1))[0] == 0
        if error.report_from_any_rank or (first and not isinstance(error, AbortedError)):
            click.echo(f"p2psim: {error}", err=True)
        elif not first and not isinstance(error, AbortedError):
            ranks.let_first_rank_report()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # while ranks run, the runner takes care of it
        if environment.mpi_rank() is None:
            click.echo("p2psim: stopped", err=True)
        sys.stderr.flush()
        # At once: MPI would wait for the others, and Python ends by the signal if it hit
        # an import at a certain moment.
        os._exit(STOPPED)


class Commands(click.Group):
    """A group of commands whose mistakes are one sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        return guarded(lambda: super(Commands, self).invoke(ctx), ctx.params["traceback"])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
def main(traceback: bool) -> None:
    """Peer-to-peer deep learning for real: one MPI rank per peer."""


EXPERIMENT = click.argument("experiment", type=click.Path(path_type=Path))
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the experiment file; may be given again.",
)
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder (default: runs/NAME)."
)
ONLY = click.option("--only", type=int, help="Only this combination of the [sweep], from 0.")
RESUME = click.option("--resume", is_flag=True, help="Go on with the run in the folder.")


@main.command()
@EXPERIMENT
@SET
@OUT
@click.option("--force", is_flag=True, help="Replace the run in the folder.")
@RESUME
@click.option("--debug", is_flag=True, help="All peers as threads of this process.")
@ONLY
@click.option("--launch", metavar="NAME", help="Start the ranks with launch/NAME.sh.")
def run(
    experiment: Path,
    settings: tuple[str, ...],
    out: Path | None,
    force: bool,
    resume: bool,
    debug: bool,
    only: int | None,
    launch: str | None,
) -> None:
    """Run an experiment: starts the ranks, or is one of them inside mpiexec."""
    ranks.one_thread()  # before NumPy starts its own
    slurm.short_addresses()
    if environment.mpi_rank():
        from p2psim.launcher import mpi_init

        mpi_init.check()  # before the heavy libraries: nothing else is of use where it fails
    from p2psim.launcher import runner

    runner.run(runner.requests(experiment, settings, out, force, resume), debug, only, launch)


def parse_run(arguments: list[str]) -> tuple[list[Request], int | None]:
    """Return the combinations that a command line `run ...` asks for, and its `--only`."""
    from p2psim.launcher import runner

    options = run.make_context("run", arguments[1:]).params
    names = ("experiment", "settings", "out", "force", "resume")
    return runner.requests(*(options[name] for name in names)), options["only"]


@main.command()
@EXPERIMENT
@SET
@OUT
@RESUME
@click.option("--nodes", type=int, help="Spread the peers over so many nodes.")
@click.option("--peers-per-node", type=int, help="Put so many peers on a node.")
@click.option("--cores-per-node", type=int, help="Let them share so many cores (default: 1 each).")
@click.option("--time", metavar="HH:MM:SS", help="Time limit (default: the partition's).")
@click.option("--signal-before", type=int, default=120, help="Checkpoint so many seconds before.")
@click.option("--print", "printed", is_flag=True, help="Show the batch script, submit nothing.")
def submit(
    experiment: Path,
    settings: tuple[str, ...],
    out: Path | None,
    resume: bool,
    printed: bool,
    **wish: Any,
) -> None:
    """Run an experiment as a Slurm job, a [sweep] as a job array; prints the job's number."""
    from p2psim.launcher import runner, submit

    requests = runner.requests(experiment, settings, out, resume=resume)
    make = submit.script if printed else submit.submit
    click.echo(make(requests, submit.SlurmRequest(**wish)))


@main.command()
@EXPERIMENT
@SET
@ONLY
def plan(experiment: Path, settings: tuple[str, ...], only: int | None) -> None:
    """Check an experiment and say what it would be, without running it."""
    from p2psim.experiment import plan
    from p2psim.launcher import runner

    requests = [one for _, one in runner.choose(runner.requests(experiment, settings, None), only)]
    plans = [(request.label, plan.plan(request.scenario())) for request in requests]
    for label, found in plans:
        click.echo(f"\n{label}" if label else "", nl=bool(label))
        for name, text in found.items():
            click.echo(f"{name:>14}  {text}")


@main.command()
@click.argument("experiment", type=click.Path(path_type=Path), required=False)
@SET
@click.option("--out", type=click.Path(path_type=Path), help="Run folder (default: runs/NAME).")
@click.pass_context
def doctor(
    ctx: click.Context, experiment: Path | None, settings: tuple[str, ...], out: Path | None
) -> None:
    """Look for what goes wrong on this machine, perhaps for an experiment, and say what to do."""
    from p2psim.launcher.doctor import examine

    ctx.exit(examine.examine(experiment, settings, out))


@main.group()
def data() -> None:
    """Data sets."""


@data.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Download mnist, cifar10, imagenette or ag-news into $P2PSIM_DATA and check it."""
    from p2psim.data import fetch as fetching

    click.echo(fetching.fetch(name))


RUN = click.Path(path_type=Path)  # a run folder or its run.h5; whether it is one, results says
TO = click.option("--to", "target", type=click.Path(path_type=Path), metavar="FILE")


@main.command()
@click.argument("run", type=RUN)
def show(run: Path) -> None:
    """Show what a run was and what came of it."""
    from p2psim.analysis import tables

    click.echo(tables.summary(run))


@main.command()
@click.argument("run", type=RUN)
@click.option("--once", is_flag=True, help="Show how it stands, and end.")
@click.option(
    "--wait",
    "patience",
    default=30.0,
    metavar="SECONDS",
    show_default=True,
    help="For a run that has not begun.",
)
def watch(run: Path, once: bool, patience: float) -> None:
    """Follow a run, or the runs of a sweep, until they end; Ctrl-C leaves, and they go on."""
    with contextlib.suppress(KeyboardInterrupt):  # also while the libraries are imported
        from p2psim.analysis import watch

        watch.watch(run, once, patience)


@main.command()
@click.argument("run", type=RUN)
@click.argument("other", type=RUN)
def compare(run: Path, other: Path) -> None:
    """Show side by side what differs between two runs."""
    from p2psim.analysis import tables

    click.echo(tables.compare(run, other))


@main.command()
@click.argument("runs", type=RUN, nargs=-1, required=True, metavar="RUN...")
@TO
@click.option("--timeline", is_flag=True, help="One run's schedule in virtual time: timeline.png.")
@click.option("--rounds", metavar="A:B", help="With --timeline: these rounds (default: the first).")
def plot(runs: tuple[Path, ...], target: Path | None, timeline: bool, rounds: str | None) -> None:
    """Draw runs in one figure: .png, .svg or .pdf (default: RUN/figure.png of the first)."""
    from p2psim.analysis import plots
    from p2psim.analysis import timeline as drawn

    if rounds and not timeline:
        raise InputError("--rounds is for --timeline: give both, or none")
    if not timeline:
        click.echo(plots.plot(runs, target))
        return
    if len(runs) > 1:
        raise InputError(f"--timeline shows one run, not {len(runs)}: give one")
    file, said = drawn.plot(runs[0], target, rounds)
    click.echo(f"{said}\n{file}")


@main.command()
@click.argument("run", type=RUN)
@TO
@click.option("--force", is_flag=True, help="Replace the file.")
def join(run: Path, target: Path | None, force: bool) -> None:
    """Turn a run's files into a single one (default: RUN/joined.h5)."""
    from p2psim.analysis import results

    click.echo(results.join(run, target, force))


@main.command("list")
@click.argument("kind", required=False)
@click.argument("name", required=False)
def list_(kind: str | None, name: str | None) -> None:
    """List the plug-ins, or those of one KIND, with parameters and sources; all about one NAME."""
    from p2psim.experiment import catalog

    click.echo(catalog.details(kind, name) if kind and name else catalog.listing(kind))
