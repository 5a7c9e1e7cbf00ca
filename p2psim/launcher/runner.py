"""What `p2psim run` does: be one rank, be all ranks as threads, or start the ranks and watch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from p2psim.analysis import results, tables
from p2psim.errors import STOPPED, InputError, PeerError, StoppedError
from p2psim.experiment import config, plan, scenario
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.sweep import assign, combinations
from p2psim.launcher import environment, mpi_init, ranks
from p2psim.launcher.progress import Progress
from p2psim.network.transport import MPITransport, run_threads
from p2psim.simulation import allocator, checkpoint, recorder, run_folder, session
from p2psim.simulation.watchdog import Overseer

ECHO = 1.0  # seconds in which a rank may get a signal twice, sent to it and passed on by its stub


@dataclass
class Request:
    """One combination of an experiment, to be run in one folder."""

    file: Path
    settings: tuple[str, ...]
    table: dict[str, Any]
    base: Path  # the folder of the experiment
    label: str  # of the combination of a sweep, else empty
    force: bool
    resume: bool

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.base / self.label

    @property
    def begun(self) -> bool:
        """Whether there is a run in the folder."""
        return (self.folder / "run.h5").exists()

    @property
    def goes_on(self) -> bool:
        """Whether the run in the folder is to be continued."""
        return self.resume and self.begun

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.goes_on and recorder.status(self.folder) == "done"

    def arguments(self, number: int | None = None) -> list[str]:
        """The command line of a rank; `number` is the combination's, None leaves it open."""
        made = ["run", str(self.file), "--out", str(self.base)]
        made += [] if number is None else ["--only", str(number)]
        made += [part for setting in self.settings for part in ("--set", setting)]
        return made + ["--force"] * self.force + ["--resume"] * self.resume

    def scenario(self) -> scenario.Scenario:
        """A fresh Scenario: every peer has plug-ins of its own."""
        return scenario.load(self.table, self.file.resolve().parent)


def requests(
    file: Path,
    settings: tuple[str, ...],
    out: Path | None,
    force: bool = False,
    resume: bool = False,
) -> list[Request]:
    """Every combination of the experiment."""
    if force and resume:
        raise InputError("--force starts anew and --resume goes on: give one of them")
    table = assign(config.read(file), settings)
    base = out or Path("runs") / str(table["name"])
    return [
        Request(file, settings, one, base, label, force, resume)
        for label, one in combinations(table)
    ]


def choose(wanted: list[Request], only: int | None) -> list[tuple[int, Request]]:
    """All combinations by number, or the one numbered `only`."""
    if only is None:
        return list(enumerate(wanted))
    if not 0 <= only < len(wanted):
        raise InputError(f"--only {only}: the combinations are numbered 0 to {len(wanted) - 1}")
    return [(only, wanted[only])]


def run(wanted: list[Request], debug: bool, only: int | None, launch: str | None = None) -> None:
    """Run each combination of an experiment in turn, or the one numbered `only`."""
    chosen = choose(wanted, only)
    here = environment.mpi_rank()
    if here and len(chosen) > 1:
        raise InputError("inside mpiexec a [sweep] needs --only K; or run it without mpiexec")
    if here:
        request = chosen[0][1]
        ready = request.scenario()
        run_rank(request, ready, Holdings(ready), *here)
        return
    sizes = [check(request) for _, request in chosen]  # all, before the first starts
    launcher = None if debug else ranks.find_launcher(launch)
    for (number, request), size in zip(chosen, sizes, strict=True):
        if request.finished:
            pass
        elif launcher:
            start_ranks(request, launcher, size, number)
        else:
            run_threads_locally(request, size.peers)
        print_result(tables.summary(request.folder))


def print_result(text: str) -> None:
    """Print what came out; whoever does not listen misses that, and no more."""
    try:
        click.echo(text)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Size(NamedTuple):
    """What the launcher has to know of a run."""

    peers: int
    patience: float


def check(request: Request) -> Size:
    """Everything that can be known before a rank starts."""
    ready = request.scenario()
    run_folder.check_idle(request.folder)
    if request.resume and not request.begun and not request.label:  # a sweep may have come so far
        click.echo(f"p2psim: no run in {request.folder} to resume: from the beginning", err=True)
    if request.goes_on:
        run_folder.check_same(request.folder, ready)
    else:
        run_folder.check_folder(request.folder, request.force)
    run_folder.check_writable(request.folder)
    holdings = Holdings(ready)
    holdings.bind_task(0)  # a damaged file shows here
    if "warning" in (said := plan.diagnose(ready)):
        of = f"{request.label}: " if request.label else ""
        click.echo(f"p2psim: warning: {of}{said['warning']}", err=True)
    return Size(ready.peers, ready.experiment.run.patience)


class StopRequest:
    """Whether the run is to stop: by signals to this process, or by a file in the run folder."""

    def __init__(self, folder: Path) -> None:
        folder = folder.absolute()
        self.file, self.signals, self.first = folder / recorder.STOP, 0, 0.0

    def listen(self, *numbers: int) -> StopRequest:
        """Count these signals, whatever this process was told to do about them."""
        for number in numbers:
            signal.signal(number, self.note)
        return self

    def note(self, number: int, frame: object) -> None:
        """A signal has come. An exception raised here might get lost, or hit any line."""
        self.signals += 1
        now = time.monotonic()
        self.first = self.first or now
        if number == signal.SIGINT and environment.mpi_rank() and now - self.first > ECHO:
            raise KeyboardInterrupt  # a rank that is to end at once

    def __call__(self) -> bool:
        return self.signals > 0 or self.file.exists()


def run_rank(
    request: Request, ready: scenario.Scenario, holdings: Holdings, rank: int, size: int
) -> None:
    """Be the peer that mpiexec started here."""
    allocator.return_freed_memory()  # until the first round
    asked = StopRequest(request.folder).listen(*ranks.STOPPING)
    session.check_size(ready, size)
    mpi_init.init_mpi(size)
    wire = MPITransport()
    launched = "P2PSIM_LAUNCHED" in os.environ  # then the launcher reports
    try:
        session.run_peer(
            ready,
            wire,
            request.folder,
            request.force,
            request.resume,
            asked,
            environment.local_rank()[0],
            holdings,
        )
    except PeerError as error:
        if not launched or not error.recorded:
            click.echo(f"p2psim: {error}", err=True)
            wait_until_stderr_is_read()
        wire.abort(error.exit_code)
    except StoppedError:
        if not launched and rank == 0:
            click.echo(f"p2psim: {how_it_stopped(request.folder)}", err=True)
        sys.exit(0 if launched else STOPPED)  # mpiexec would have its own words about a 4
    if rank == 0 and not launched:
        print_result(tables.summary(request.folder))


def wait_until_stderr_is_read(limit: float = 2.0) -> None:
    """Wait until mpiexec has read what this rank wrote: from ranks that abort it reads no more."""
    sys.stderr.flush()
    until = time.monotonic() + limit
    with contextlib.suppress(OSError):  # what is no pipe cannot say, and need not
        while time.monotonic() < until and any(fcntl.ioctl(2, termios.FIONREAD, bytes(4))):
            time.sleep(0.01)
    time.sleep(0.1)  # to pass it on


def run_threads_locally(request: Request, peers: int) -> None:
    """Be all peers (--debug). A first signal asks them to stop, a second ends them."""
    asked = StopRequest(request.folder)

    def note(number: int, frame: object) -> None:
        asked.note(number, frame)
        if asked.signals > 1 or not request.begun:
            raise KeyboardInterrupt

    for number in ranks.STOPPING:
        signal.signal(number, note)
    try:
        run_threads(
            peers,
            lambda wire: session.run_peer(
                request.scenario(), wire, request.folder, request.force, request.resume, asked
            ),
        )
    except (KeyboardInterrupt, StoppedError):
        stopped(request.folder)


def start_ranks(request: Request, launcher: ranks.LaunchCommand, size: Size, number: int) -> None:
    """Start the ranks, show how far they are, and say how it ended."""
    asked = StopRequest(request.folder).listen(*ranks.STOPPING)
    process = ranks.start(launcher, size.peers, request.arguments(number))
    overseer, hang = Overseer(request.folder, *size), ""
    with Progress(request.folder.name, lambda: results.progress(request.folder)) as progress:
        told = 0
        while process.poll() is None:
            progress.update()
            if asked.signals > told:
                told = asked.signals
                if told > 1 or not request.begun:
                    recorder.set_status(request.folder, "stopped")  # no peer is to blame
                    ranks.end(process)
                elif told == 1:
                    progress.say("p2psim: stopping with a checkpoint; once more: at once")
            if told == 1 and request.begun:
                asked.file.touch()  # again and again: peers that only now begin remove it
            if hang := hang or overseer():
                ranks.end(process)
    code = process.returncode
    if code:
        ranks.remove_leftovers()
        ranks.remove_dead_servers()
    how = recorder.status(request.folder) if request.begun and not code else ""
    if how == "done":
        return
    if how == "stopped" or asked.signals:
        stopped(request.folder)
    if code == InputError.exit_code:
        sys.exit(code)  # the ranks have said it
    if hang:
        raise PeerError(hang + go_on(request.folder))
    with contextlib.suppress(OSError):  # a full disk
        recorder.set_status(request.folder, "failed")
    if code > 0 and (reasons := results.failures(request.folder)):
        raise PeerError("; ".join(reasons) + go_on(request.folder))
    died = "mpiexec was killed by signal" if code < 0 else "the ranks have ended with exit code"
    where = f"; the rows so far are in {request.folder}" if request.begun else " at the start"
    raise PeerError(f"{died} {abs(code)}{where}{go_on(request.folder)}")


def stopped(folder: Path) -> None:
    """Say that the run was stopped, and end."""
    recorder.set_status(folder, "stopped")
    click.echo(f"p2psim: {how_it_stopped(folder)}", err=True)
    sys.exit(STOPPED)


def how_it_stopped(folder: Path) -> str:
    """What is left of a run that was stopped."""
    if not (folder / "run.h5").exists():
        return "stopped before it began"
    return f"stopped; the rows so far are in {folder}{go_on(folder)}"


def go_on(folder: Path) -> str:
    """How, if it can be."""
    return "; go on with --resume" * bool(checkpoint.rounds(folder))
