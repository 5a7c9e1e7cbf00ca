"""Implementation of `p2psim run`: one rank, all peers as threads, or start of all ranks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from p2psim.analysis import results, tables
from p2psim.errors import (
    STOPPED,
    AbortedError,
    InputError,
    PeerError,
    StoppedError,
    origin,
    print_traceback,
)
from p2psim.experiment import config, plan, scenario
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.sweep import assign, combinations
from p2psim.launcher import environment, mpi_init, ranks
from p2psim.launcher.progress import Progress
from p2psim.network.transport import MPITransport, Transport, run_threads
from p2psim.simulation import allocator, checkpoint, recorder, run_folder, session
from p2psim.simulation.watchdog import HangDetector

# Seconds in which a rank may receive one signal twice: directly, and forwarded by its stub.
ECHO = 1.0


@dataclass
class Request:
    """One combination of an experiment and the options of `p2psim run` for it."""

    file: Path
    settings: tuple[str, ...]
    table: dict[str, Any]
    base: Path  # run folder of the experiment
    label: str  # of the combination of a sweep, "" without a sweep
    force: bool
    resume: bool
    notes: tuple[str, ...] = ()  # keys that --set has removed, in sentences

    @property
    def folder(self) -> Path:
        """Run folder of this combination."""
        return self.base / self.label

    @property
    def has_run(self) -> bool:
        """True if the folder contains a run."""
        return (self.folder / "run.h5").exists()

    @property
    def resumes_run(self) -> bool:
        """True if the run in the folder is to be resumed."""
        return self.resume and self.has_run

    @property
    def is_complete(self) -> bool:
        """True if --resume is given and the run in the folder has completed all rounds."""
        return self.resumes_run and recorder.status(self.folder) == "done"

    def arguments(self, number: int | None = None) -> list[str]:
        """Return the command line of a rank; without `number` the caller adds --only."""
        arguments = ["run", str(self.file), "--out", str(self.base)]
        arguments += [] if number is None else ["--only", str(number)]
        arguments += [part for setting in self.settings for part in ("--set", setting)]
        return arguments + ["--force"] * self.force + ["--resume"] * self.resume

    def scenario(self) -> scenario.Scenario:
        """Build a new Scenario, since peers of one process must not share plug-in objects."""
        return scenario.load(self.table, self.file.resolve().parent)


def requests(
    file: Path,
    settings: tuple[str, ...],
    out: Path | None,
    force: bool = False,
    resume: bool = False,
) -> list[Request]:
    """Return one request for each combination of the experiment."""
    if force and resume:
        raise InputError("--force replaces the run and --resume continues it: give one of them")
    notes: list[str] = []
    table = assign(config.read(file), settings, file.resolve().parent, notes.append)
    base = out or Path("runs") / str(table["name"])
    return [
        Request(file, settings, combination, base, label, force, resume, tuple(notes))
        for label, combination in combinations(table)
    ]


def print_notes(requests: list[Request]) -> None:
    """Print the notes of the command line, which all combinations share, on stderr."""
    for note in requests[0].notes:
        click.echo(f"p2psim: {note}", err=True)


def select(requests: list[Request], only: int | None) -> list[tuple[int, Request]]:
    """Return (number, request) of all combinations, or of the one numbered `only`."""
    if only is None:
        return list(enumerate(requests))
    if not 0 <= only < len(requests):
        raise InputError(f"--only {only}: the combinations are numbered 0 to {len(requests) - 1}")
    return [(only, requests[only])]


def run(requests: list[Request], debug: bool, only: int | None, launch: str | None = None) -> None:
    """Run the combinations of an experiment one after the other, or the one numbered `only`.

    A combination that fails does not stop the others; PeerError with all failures at the end.
    """
    selected = select(requests, only)
    rank_and_size = environment.mpi_rank()
    if rank_and_size and len(selected) > 1:
        raise InputError("inside mpiexec a [sweep] needs --only K; or run it without mpiexec")
    if rank_and_size:
        request = selected[0][1]
        own = request.scenario()
        run_rank(request, own, Holdings(own), *rank_and_size)
        return
    print_notes(requests)
    # Check all combinations before the first one starts, so that no error appears hours later.
    sizes = [check(request) for _, request in selected]
    launcher = None if debug else ranks.find_launcher(launch)
    failed = []
    for (number, request), size in zip(selected, sizes, strict=True):
        try:
            run_combination(request, launcher, size, number)
        except (InputError, PeerError, AbortedError) as error:
            if len(selected) == 1:
                raise
            failed.append(f"{number} ({request.label})")
            if not isinstance(error, AbortedError):  # else the ranks have printed the reason
                click.echo(f"p2psim: {request.label}: {error}", err=True)
    if failed:
        raise PeerError(
            f"{len(failed)} of {len(selected)} combinations failed: {', '.join(failed)}"
        )


def run_combination(
    request: Request, launcher: ranks.LaunchCommand | None, size: Size, number: int
) -> None:
    """Run one combination, as threads of this process without a launcher, and print its result."""
    if request.is_complete:
        pass
    elif launcher:
        start_ranks(request, launcher, size, number)
    else:
        run_threads_locally(request, size.peers)
    print_result(tables.summary(request.folder))


def print_result(text: str) -> None:
    """Print `text`; ignore a closed stdout, because the result is in the run folder anyway."""
    try:
        click.echo(text)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Size(NamedTuple):
    """Properties of a run that its launcher requires."""

    peers: int
    patience: float  # seconds, of [run] patience


def check(request: Request) -> Size:
    """Check everything that can be checked before a rank starts; InputError if it cannot run."""
    checked = request.scenario()
    run_folder.check_idle(request.folder)
    # In a sweep, an interrupted run may not have reached this combination: that is no surprise.
    if request.resume and not request.has_run and not request.label:
        click.echo(f"p2psim: no run in {request.folder} to resume: starting a new run", err=True)
    if request.resumes_run:
        run_folder.check_same(request.folder, checked)
    else:
        run_folder.check_folder(request.folder, request.force)
    run_folder.check_writable(request.folder)
    scenario.check_build(checked)
    Holdings(checked).bind_task(0)  # a damaged file shows here
    if "warning" in (diagnostics := plan.diagnose(checked)):
        prefix = f"{request.label}: " if request.label else ""
        click.echo(f"p2psim: warning: {prefix}{diagnostics['warning']}", err=True)
    return Size(checked.peers, checked.experiment.run.patience)


class StopRequest:
    """Request to stop a run: signals to this process, or a file in the run folder."""

    def __init__(self, folder: Path) -> None:
        folder = folder.absolute()
        self.file, self.signals, self.first = folder / recorder.STOP, 0, 0.0

    def listen(self, *numbers: int) -> StopRequest:
        """Count these signals, even if this process inherited that they are ignored."""
        for number in numbers:
            signal.signal(number, self.count)
        return self

    def count(self, number: int, frame: object) -> None:
        """Count a signal (as its handler).

        It raises nothing at the first signal: the exception might be lost, or interrupt any line.
        """
        self.signals += 1
        now = time.monotonic()
        self.first = self.first or now
        if number == signal.SIGINT and environment.mpi_rank() and now - self.first > ECHO:
            raise KeyboardInterrupt  # a second SIGINT ends a rank at once

    def __call__(self) -> bool:
        return self.signals > 0 or self.file.exists()


def run_rank(
    request: Request, own: scenario.Scenario, holdings: Holdings, rank: int, size: int
) -> None:
    """Run the peer of this rank, which mpiexec started, with its own scenario `own`."""
    allocator.return_freed_memory()  # until the first round
    stop_requested = StopRequest(request.folder).listen(*ranks.STOPPING)
    session.check_size(own, size)
    if "P2PSIM_LAUNCHED" not in os.environ:  # else the launcher has checked it
        scenario.check_build(own)
    mpi_init.init_mpi(size)
    transport = MPITransport()
    launched = "P2PSIM_LAUNCHED" in os.environ  # then the launcher reports
    if rank == 0 and not launched:
        print_notes([request])
    try:
        run_peer(request, own, transport, stop_requested, environment.local_rank()[0], holdings)
    except PeerError as error:
        if ranks.TRACEBACK in os.environ:
            print_traceback(error)
        if not launched or not error.recorded:
            click.echo(f"p2psim: {error}", err=True)
            wait_until_stderr_is_read()
        transport.abort(error.exit_code)
    except StoppedError:
        if not launched and rank == 0:
            click.echo(f"p2psim: {stop_message(request.folder)}", err=True)
        # Not 4 under a launcher: mpiexec would print a message of its own about that exit code.
        sys.exit(0 if launched else STOPPED)
    if rank == 0 and not launched:
        print_result(tables.summary(request.folder))


def run_peer(
    request: Request,
    own: scenario.Scenario,
    wire: Transport,
    stop_requested: Callable[[], bool],
    *rest: Any,
) -> None:
    """Run one peer; PeerError names the user's file and line if a plug-in of the user fails.

    rest: the last parameters of session.run_peer.
    """
    folder, force, resume = request.folder, request.force, request.resume
    try:
        session.run_peer(own, wire, folder, force, resume, stop_requested, *rest)
    except PeerError as error:
        where = origin(error)
        if not where:
            raise
        text = f"{error} ({where})"
        recorded = error.recorded and session.record(folder, wire.rank, text)
        raise PeerError(text, recorded) from error


def wait_until_stderr_is_read(limit: float = 2.0) -> None:
    """Wait until mpiexec has read this rank's stderr: it discards the rest after an abort."""
    sys.stderr.flush()
    end = time.monotonic() + limit
    with contextlib.suppress(OSError):  # only a pipe reports unread bytes
        while time.monotonic() < end and any(fcntl.ioctl(2, termios.FIONREAD, bytes(4))):
            time.sleep(0.01)
    time.sleep(0.1)  # time for mpiexec to print what it has read


def run_threads_locally(request: Request, peers: int) -> None:
    """Run all peers as threads (--debug); a first signal requests a stop, a second one ends it."""
    stop_requested = StopRequest(request.folder)

    def count(number: int, frame: object) -> None:
        stop_requested.count(number, frame)
        if stop_requested.signals > 1 or not request.has_run:
            raise KeyboardInterrupt

    for number in ranks.STOPPING:
        signal.signal(number, count)
    try:
        run_threads(
            peers,
            lambda wire: run_peer(request, request.scenario(), wire, stop_requested),
        )
    except (KeyboardInterrupt, StoppedError):
        exit_stopped(request.folder)


def start_ranks(request: Request, launcher: ranks.LaunchCommand, size: Size, number: int) -> None:
    """Start the ranks, show their progress until they end, and raise the error they ended with."""
    stop_requested = StopRequest(request.folder).listen(*ranks.STOPPING)
    process = ranks.start(launcher, size.peers, request.arguments(number))
    detector, hang = HangDetector(request.folder, *size), ""
    with Progress(request.folder.name, lambda: results.progress(request.folder)) as progress:
        handled = 0  # signals
        while process.poll() is None:
            progress.update()
            if stop_requested.signals > handled:
                handled = stop_requested.signals
                if handled > 1 or not request.has_run:
                    recorder.set_status(request.folder, "stopped")  # no peer has failed
                    ranks.terminate(process)
                elif handled == 1:
                    progress.print(
                        "p2psim: stopping with a checkpoint; a second signal ends it now"
                    )
            if handled == 1 and request.has_run:
                stop_requested.file.touch()  # repeatedly: peers that start now remove the file
            if hang := hang or detector():
                ranks.terminate(process)
    if process.returncode:
        ranks.remove_leftovers()
        ranks.remove_dead_servers()
    check_end(request, stop_requested, process.returncode, hang, ranks.limits(size.peers))


def check_end(
    request: Request, stop_requested: StopRequest, code: int, hang: str, limits: str
) -> None:
    """Return if the run is done; else report why it ended, by exit or PeerError.

    `code` is the exit code of mpiexec, `hang` the report of a hang or "", `limits` the end of a
    message that names limits of this shell, or "".
    """
    status = recorder.status(request.folder) if request.has_run and not code else ""
    if status == "done":
        return
    if status == "stopped" or stop_requested.signals:
        exit_stopped(request.folder)
    if code == InputError.exit_code:
        raise AbortedError  # the ranks have printed the error
    if hang:
        raise PeerError(hang + resume_hint(request.folder))
    with contextlib.suppress(OSError):  # a full disk
        recorder.set_status(request.folder, "failed")
    if code > 0 and (reasons := results.failures(request.folder)):
        raise PeerError("; ".join(reasons) + limits + resume_hint(request.folder))
    cause = "mpiexec was killed by signal" if code < 0 else "the ranks have ended with exit code"
    where = f"; the rows so far are in {request.folder}" if request.has_run else " at the start"
    raise PeerError(f"{cause} {abs(code)}{where}{limits}{resume_hint(request.folder)}")


def exit_stopped(folder: Path) -> None:
    """Record and report that the run was stopped, and exit with the code STOPPED."""
    recorder.set_status(folder, "stopped")
    click.echo(f"p2psim: {stop_message(folder)}", err=True)
    sys.exit(STOPPED)


def stop_message(folder: Path) -> str:
    """Return the message about a stopped run and its rows."""
    if not (folder / "run.h5").exists():
        return "stopped before it began"
    return f"stopped; the rows so far are in {folder}{resume_hint(folder)}"


def resume_hint(folder: Path) -> str:
    """Return the end of a message that recommends --resume, "" without a checkpoint."""
    return "; go on with --resume" * bool(checkpoint.rounds(folder))
