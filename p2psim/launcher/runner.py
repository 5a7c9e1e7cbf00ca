"""Implementation of `p2psim run`: one rank, all peers as threads, or start of all ranks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from p2psim.analysis import results, tables
from p2psim.errors import (
    STOPPED,
    InputError,
    PeerError,
    StoppedError,
    print_traceback,
)
from p2psim.experiment import plan, scenario
from p2psim.experiment.holdings import Holdings
from p2psim.launcher import environment, mpi_init, ranks
from p2psim.launcher.output import RankErrors, Reports, show_warning
from p2psim.launcher.progress import Progress, State
from p2psim.launcher.run_requests import Request, print_notes, select
from p2psim.launcher.stopping import StopRequest, set_handlers
from p2psim.network.mpi import MPITransport
from p2psim.network.threads import run_threads
from p2psim.network.transport import Transport
from p2psim.simulation import allocator, checkpoint, learning_check, run_file, run_folder, session
from p2psim.simulation.run_format import COMPLETE
from p2psim.simulation.watchdog import HangDetector


class RefusedByRanksError(InputError):
    """Refusal of a run by its ranks, which print the reason themselves."""


def run(requests: list[Request], debug: bool, only: int | None, launch: str | None = None) -> None:
    """Run the combinations of an experiment one after the other, or the one numbered `only`.

    Prints the summary of each, and exits if a run was stopped or if its ranks refused it.
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
    try:
        for folder in run_all(selected, debug, Reports(), launch):
            print_result(tables.summary(folder))
    except StoppedError as error:
        click.echo(f"p2psim: {error}", err=True)
        sys.exit(STOPPED)
    except RefusedByRanksError as error:
        sys.exit(error.exit_code)


def run_all(
    selected: Sequence[tuple[int, Request]],
    debug: bool,
    reports: Reports,
    launch: str | None = None,
) -> Iterator[Path]:
    """Run numbered combinations one after the other; yield the folder of each finished run.

    A combination that fails does not stop the others: PeerError names all of them at the end.
    Raises InputError and StoppedError as well.
    """
    # Check all combinations before the first one starts, so that no error appears hours later.
    sizes = [check(request, reports.warn) for _, request in selected]
    launcher = None if debug else ranks.find_launcher(launch)
    failed = []
    for (number, request), size in zip(selected, sizes, strict=True):
        try:
            run_combination(request, launcher, size, number, reports)
        except (InputError, PeerError) as error:
            if len(selected) == 1:
                raise
            failed.append(f"{number} ({request.label})")
            if not isinstance(error, RefusedByRanksError):  # the ranks have printed the reason
                reports.warn(f"{request.label}: {error}")
        else:
            yield request.folder
    if failed:
        raise PeerError(
            f"{len(failed)} of {len(selected)} combinations failed: {', '.join(failed)}"
        )


def run_combination(
    request: Request,
    launcher: ranks.LaunchCommand | None,
    size: Size,
    number: int,
    reports: Reports,
) -> None:
    """Run one combination, by ranks or, without a launcher, as threads of this process."""
    if request.is_complete(size.rounds):
        return
    if launcher:
        with request.file_for_ranks():
            start_ranks(request, launcher, size, number, reports)
    else:
        run_threads_locally(request, size.peers)


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
    rounds: int
    patience: float  # seconds, of [run] patience


def check(request: Request, warn: Callable[[str], object] = show_warning) -> Size:
    """Check everything that can be checked before a rank starts; InputError if it cannot run."""
    checked = request.scenario()
    run_folder.check_idle(request.folder)
    if request.resumes_run:
        run_folder.check_same(request.folder, checked)
    else:
        run_folder.check_folder(request.folder, request.force)
    if request.label:
        run_folder.check_sweep(request.base)
    run_folder.check_writable(request.folder)
    # In a sweep, an interrupted run may not have reached this combination: that is no surprise.
    if request.resume and not request.has_run and not request.label:
        warn(f"no run in {request.folder} to resume: starting a new run")
    holdings = Holdings(checked)
    holdings.check()  # a damaged file shows here
    learning_check.check_learning(holdings)
    unused = plan.unused_optimizer(checked)  # by a dry run, which tries the algorithm as well
    warnings = [plan.diagnose(checked).get("warning", "")]
    if "optimizer" in request.table.get("learning", {}):  # else nobody expects an effect
        warnings.append(unused)
    prefix = f"{request.label}: " if request.label else ""
    for text in filter(None, warnings):
        warn(f"warning: {prefix}{text}")
    return Size(checked.peers, checked.rounds, checked.experiment.run.patience)


def run_rank(
    request: Request, own: scenario.Scenario, holdings: Holdings, rank: int, size: int
) -> None:
    """Run the peer of this rank, which mpiexec started, with its own scenario `own`."""
    allocator.return_freed_memory()  # until the first round
    # A debugger reads the end of its input at once: nobody can answer it.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    stop_requested = StopRequest(request.folder).listen(*ranks.STOPPING)
    session.check_size(own, size)
    launched = "P2PSIM_LAUNCHED" in os.environ  # then the launcher tries plug-ins and reports
    mpi_init.init_mpi(size)
    transport = MPITransport()
    if rank == 0 and not launched:
        print_notes([request])
    try:
        local_rank = environment.local_rank()[0]
        run_peer(request, own, transport, stop_requested, local_rank, holdings, not launched)
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
    transport: Transport,
    stop_requested: Callable[[], bool],
    *rest: Any,
) -> None:
    """Run one peer as the request says; `rest` are the last parameters of session.run_peer."""
    folder, force, resume = request.folder, request.force, request.resume
    session.run_peer(own, transport, folder, force, resume, stop_requested, *rest)


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

    set_handlers(dict.fromkeys(ranks.STOPPING, count))
    try:
        run_threads(
            peers,
            lambda transport: run_peer(request, request.scenario(), transport, stop_requested),
        )
    except (KeyboardInterrupt, StoppedError):
        raise record_stop(request.folder, stop_requested.last) from None
    except (InputError, PeerError):
        raise
    except BaseException:  # of a signal handler of the caller
        record_stop(request.folder, 0)
        raise
    finally:
        with contextlib.suppress(OSError):  # a full disk
            run_file.release(request.folder)


def start_ranks(
    request: Request, launcher: ranks.LaunchCommand, size: Size, number: int, reports: Reports
) -> None:
    """Start the ranks, show their progress until they end, and raise the error they ended with."""
    stop_requested = StopRequest(request.folder).listen(*ranks.STOPPING)
    errors = RankErrors(reports.keep_errors)
    name, began = ranks.launch_name(), False
    process = ranks.start(launcher, size.peers, request.arguments(number), name, errors.file)
    detector, hang = HangDetector(request.folder, size.peers, size.patience), ""

    def poll() -> State | None:
        # Until the ranks have begun, run.h5 is that of a run that they will replace.
        return results.progress(request.folder) if began else None

    bar = Progress(request.folder.name, poll, reports.progress)
    with ranks.terminated_on_error(process), bar as progress:
        handled = 0  # signals
        while process.poll() is None:
            progress.update()
            errors.copy()
            began = began or run_file.launched_by(request.folder) == name
            if stop_requested.signals > handled:
                handled = stop_requested.signals
                if handled > 1 or not request.has_run:
                    run_file.set_status(request.folder, "stopped")  # no peer has failed
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
    errors.copy()
    if began and run_file.launched_by(request.folder) != name:
        raise PeerError(run_file.lost(request.folder))
    limits = ranks.limits(size.peers)
    check_end(request, stop_requested, process.returncode, hang, errors, limits)


def check_end(
    request: Request,
    stop_requested: StopRequest,
    code: int,
    hang: str,
    errors: RankErrors,
    limits: str,
) -> None:
    """Return if the run is done; else raise StoppedError, PeerError or RefusedByRanksError.

    `code` is the exit code of mpiexec, `hang` the report of a hang or "", `limits` the end of a
    message that names limits of this shell, or "".
    """
    status = run_file.status(request.folder) if request.has_run and not code else ""
    if status in COMPLETE:
        return
    if status == "stopped" or stop_requested.signals:
        raise record_stop(request.folder, stop_requested.last, results.failures(request.folder))
    if code == InputError.exit_code:
        raise RefusedByRanksError(errors.messages() or "the ranks have refused the run")
    if hang:
        raise PeerError(hang + resume_hint(request.folder))
    with contextlib.suppress(OSError):  # a full disk
        run_file.set_status(request.folder, "failed")
    if code > 0 and (reasons := results.failures(request.folder)):
        raise PeerError("; ".join(reasons) + limits + resume_hint(request.folder))
    cause = "mpiexec was killed by signal" if code < 0 else "the ranks have ended with exit code"
    if not code:
        cause = "a rank has left the program before the run was complete, with exit code"
    where = f"; the rows so far are in {request.folder}" if request.has_run else " at the start"
    raise PeerError(f"{cause} {abs(code)}{where}{limits}{resume_hint(request.folder)}")


def record_stop(folder: Path, number: int, reasons: Sequence[str] = ()) -> StoppedError:
    """Record that the run was stopped, by the signal `number` unless 0; returns the error."""
    run_file.set_status(folder, "stopped")
    return StoppedError(stop_message(folder, reasons), number)


def stop_message(folder: Path, reasons: Sequence[str] = ()) -> str:
    """Return the message about a stopped run and its rows; `reasons`: why peers failed to stop."""
    if not (folder / "run.h5").exists():
        return "stopped before it began"
    without = f" without a checkpoint, since {'; '.join(reasons)}" if reasons else ""
    return f"stopped{without}; the rows so far are in {folder}{resume_hint(folder)}"


def resume_hint(folder: Path) -> str:
    """Return the end of a message that recommends --resume, "" without a checkpoint."""
    return "; go on with --resume" * bool(checkpoint.rounds(folder))
