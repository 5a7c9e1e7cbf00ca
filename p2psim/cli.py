"""Commands of p2psim: each one parses its arguments, calls one function and prints the result.

Heavy libraries are imported inside the commands, so that `p2psim --help` starts quickly.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from p2psim import __version__
from p2psim.errors import (
    STOPPED,
    AbortedError,
    InputError,
    PeerError,
    in_one_line,
    origin,
    print_traceback,
    printable,
    quoted,
    with_origin,
)
from p2psim.launcher import environment, ranks, slurm
from p2psim.launcher.ranks import TRACEBACK

if TYPE_CHECKING:
    from p2psim.launcher.run_requests import Request


def guarded(body: Callable[[], Any]) -> Any:
    """Call `body`; report an error as one sentence on stderr and exit with its exit code.

    An exception from a plug-in of the user is such an error, too: the sentence ends with the
    user's file and line. With the variable P2PSIM_TRACEBACK a traceback precedes the sentence.
    """
    try:
        return body()
    except (InputError, PeerError, AbortedError) as error:
        report(error, str(error))
    except Exception as error:
        if not origin(error):
            raise
        report(error, in_one_line(error))
    except KeyboardInterrupt:  # the launcher of ranks handles signals itself
        if environment.mpi_rank() is None:
            click.echo("p2psim: stopped", err=True)
        sys.stderr.flush()
        # Not sys.exit: MPI's exit handler would wait for the other ranks, and after a signal
        # during an import Python may end by the signal instead of with this exit code.
        os._exit(STOPPED)


def report(error: Exception, text: str) -> NoReturn:
    """Report an error on stderr, with the user's file and line, and exit with its exit code."""
    if TRACEBACK in os.environ and not isinstance(error, AbortedError):
        print_traceback(error)
    # All ranks fail with the same error: only rank 0 prints it.
    is_first = (environment.mpi_rank() or (0, 1))[0] == 0
    if not isinstance(error, AbortedError):
        if is_first or getattr(error, "report_from_any_rank", False):
            click.echo(f"p2psim: {printable(with_origin(text, error))}", err=True)
        else:
            ranks.let_first_rank_report()
    sys.exit(getattr(error, "exit_code", InputError.exit_code))


class Commands(click.Group):
    """Group of commands that reports errors in one sentence; see `guarded`."""

    def invoke(self, ctx: click.Context) -> Any:
        return guarded(lambda: super(Commands, self).invoke(ctx))

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line; report an error of the system, such as a full disk, and exit."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            if TRACEBACK in os.environ or "--traceback" in sys.argv:
                print_traceback(error)
            with contextlib.suppress(OSError):  # the rest cannot be written either
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            file = f": {quoted(error.filename)}" if error.filename else ""
            what = f"{error.strerror or error}{file}"
            click.echo(f"p2psim: {what}; correct the path, or free the disk", err=True)
            sys.exit(InputError.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(ctx: click.Context, traceback: bool) -> None:
    """Simulate peer-to-peer deep learning with one MPI rank per peer."""
    if traceback:
        os.environ[TRACEBACK] = "1"
        ctx.call_on_close(lambda: os.environ.pop(TRACEBACK, None))


EXPERIMENT = click.argument("experiment", type=click.Path(path_type=Path))
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the experiment file; repeatable.",
)
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder (default: runs/NAME)."
)
ONLY = click.option(
    "--only", type=int, help="Run only combination K of the [sweep], from 0.", metavar="K"
)
RESUME = click.option("--resume", is_flag=True, help="Continue the run in the run folder.")


@main.command()
@EXPERIMENT
@SET
@OUT
@click.option("--force", is_flag=True, help="Replace the run in the run folder.")
@RESUME
@click.option("--debug", is_flag=True, help="Run all peers as threads of this process.")
@ONLY
@click.option("--launch", metavar="NAME", help="Start the ranks with launch/NAME.sh.")
@click.option("--paths", type=click.Path(path_type=Path), hidden=True)  # of p2psim.api to ranks
def run(
    experiment: Path,
    settings: tuple[str, ...],
    out: Path | None,
    force: bool,
    resume: bool,
    debug: bool,
    only: int | None,
    launch: str | None,
    paths: Path | None,
) -> None:
    """Run an experiment. Starts its ranks or, under mpiexec, runs as one of them."""
    ranks.one_thread()  # before NumPy starts its thread pool
    slurm.short_addresses()
    if environment.mpi_rank():
        from p2psim.launcher import mpi_init

        mpi_init.check()  # before the slow imports, which are useless if MPI does not work
    from p2psim.launcher import run_requests, runner

    requests = run_requests.requests(experiment, settings, out, force, resume, paths)
    runner.run(requests, debug, only, launch)


def parse_run(arguments: list[str]) -> tuple[list[Request], int | None]:
    """Parse a command line `run ...`; returns the requests of all combinations, and --only."""
    from p2psim.launcher import run_requests

    options = run.make_context("run", arguments[1:]).params
    names = ("experiment", "settings", "out", "force", "resume", "paths")
    return run_requests.requests(*(options[name] for name in names)), options["only"]


@main.command()
@EXPERIMENT
@SET
@OUT
@RESUME
@click.option("--nodes", type=int, help="Number of nodes that share the peers.")
@click.option("--peers-per-node", type=int, help="Number of peers on each node.")
@click.option(
    "--cores-per-node", type=int, help="Cores that a node's peers share (default: 1 each)."
)
@click.option("--time", metavar="HH:MM:SS", help="Time limit (default: the partition's).")
@click.option(
    "--signal-before", type=int, default=120, help="Seconds before the limit to write a checkpoint."
)
@click.option(
    "--print", "printed", is_flag=True, help="Print the batch script instead of submitting it."
)
def submit(
    experiment: Path,
    settings: tuple[str, ...],
    out: Path | None,
    resume: bool,
    printed: bool,
    **options: Any,
) -> None:
    """Submit an experiment to Slurm. A [sweep] is a job array; prints the job number."""
    from p2psim.launcher import run_requests, submit

    requests = run_requests.requests(experiment, settings, out, resume=resume)
    run_requests.print_notes(requests)
    action = submit.script if printed else submit.submit
    click.echo(action(requests, submit.SlurmRequest(**options)))


@main.command()
@EXPERIMENT
@SET
@ONLY
def plan(experiment: Path, settings: tuple[str, ...], only: int | None) -> None:
    """Check an experiment without running it. Prints graph, traffic, memory and duration."""
    from p2psim.experiment import plan
    from p2psim.launcher import run_requests

    every = run_requests.requests(experiment, settings, None)
    run_requests.print_notes(every)
    requests = [request for _, request in run_requests.select(every, only)]
    plans = [(request.label, plan.plan(request.scenario())) for request in requests]
    for label, rows in plans:
        click.echo(f"\n{label}" if label else "", nl=bool(label))
        for name, text in rows.items():
            click.echo(f"{name:>14}  {text}")


@main.command()
@click.argument("experiment", type=click.Path(path_type=Path), required=False)
@SET
@click.option("--out", type=click.Path(path_type=Path), help="Run folder (default: runs/NAME).")
@click.pass_context
def doctor(
    ctx: click.Context, experiment: Path | None, settings: tuple[str, ...], out: Path | None
) -> None:
    """Check this machine. Prints problems and remedies, also for an EXPERIMENT if given."""
    from p2psim.launcher.doctor import examine

    ctx.exit(examine.examine(experiment, settings, out))


@main.group()
def data() -> None:
    """Manage data sets."""


@data.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Download a data set into $P2PSIM_DATA and verify it.

    NAME: mnist, cifar10, imagenette, ag-news or tiny-shakespeare.
    """
    from p2psim.data import fetch as downloads

    click.echo(downloads.fetch(name))


RUN = click.Path(path_type=Path)  # a run folder or its run.h5, checked by analysis.results
TO = click.option("--to", "target", type=click.Path(path_type=Path), metavar="FILE")


@main.command()
@click.argument("run", type=RUN)
def show(run: Path) -> None:
    """Show the settings and results of a run."""
    from p2psim.analysis import tables

    click.echo(tables.summary(run))


@main.command()
@click.argument("run", type=RUN)
@click.option("--once", is_flag=True, help="Show the current state once and exit.")
@click.option(
    "--wait",
    "patience",
    default=30.0,
    metavar="SECONDS",
    show_default=True,
    help="Time to wait for a run that has not begun.",
)
def watch(run: Path, once: bool, patience: float) -> None:
    """Monitor a run or a sweep until it ends. Ctrl-C ends the monitor, not the run."""
    with contextlib.suppress(KeyboardInterrupt):  # also while the libraries are imported
        from p2psim.analysis import watch

        watch.watch(run, once, patience)


@main.command()
@click.argument("run", type=RUN)
@click.argument("other", type=RUN)
def compare(run: Path, other: Path) -> None:
    """Show the differences between two runs side by side."""
    from p2psim.analysis import tables

    click.echo(tables.compare(run, other))


@main.command()
@click.argument("runs", type=RUN, nargs=-1, required=True, metavar="RUN...")
@TO
@click.option("--timeline", is_flag=True, help="Draw the timeline of one run in virtual time.")
@click.option("--rounds", metavar="A:B", help="Rounds of the --timeline (default: the first).")
def plot(runs: tuple[Path, ...], target: Path | None, timeline: bool, rounds: str | None) -> None:
    """Draw runs in one figure. Formats: .png, .svg, .pdf (default: RUN/figure.png of the first)."""
    from p2psim.analysis import plots
    from p2psim.analysis import timeline as timelines

    if rounds and not timeline:
        raise InputError("--rounds belongs to --timeline: give both, or none")
    if not timeline:
        click.echo(plots.plot(runs, target))
        return
    if len(runs) > 1:
        raise InputError(f"--timeline shows one run, not {len(runs)}: give one")
    file, summary = timelines.plot(runs[0], target, rounds)
    click.echo(f"{summary}\n{file}")


@main.command()
@click.argument("run", type=RUN)
@TO
@click.option("--force", is_flag=True, help="Replace the file.")
def join(run: Path, target: Path | None, force: bool) -> None:
    """Join the files of a run into one. Its default name is RUN/joined.h5."""
    from p2psim.analysis.join import join_run
    from p2psim.launcher.output import show_warning

    click.echo(join_run(run, target, force, show_warning))


@main.command("list")
@click.argument("kind", required=False)
@click.argument("name", required=False)
def list_(kind: str | None, name: str | None) -> None:
    """List plug-ins. Shows parameters and sources of all or of one KIND, or details of a NAME."""
    from p2psim.experiment import catalog

    click.echo(catalog.details(kind, name) if kind and name else catalog.listing(kind))
