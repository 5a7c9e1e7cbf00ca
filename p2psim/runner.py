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
from typing import Any

import click

from p2psim import config, recorder, report, results, scenario, simulation
from p2psim.errors import STOPPED, InputError, PeerError
from p2psim.launcher import ranks, slurm
from p2psim.launcher.progress import Progress
from p2psim.wire import MPIWire, run_threads


@dataclass
class Request:
    """One combination of an experiment, to be run in one folder."""

    file: Path
    table: dict[str, Any]
    base: Path  # the folder of the experiment
    label: str  # of the combination of a sweep, else empty
    force: bool

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.base / self.label

    def scenario(self) -> scenario.Scenario:
        """A fresh Scenario: every peer has plug-ins of its own."""
        return scenario.load(self.table, self.file.resolve().parent)


def requests(file: Path, settings: tuple[str, ...], out: Path | None, force: bool) -> list[Request]:
    """Every combination of the experiment."""
    table = config.assign(config.read(file), settings)
    base = out or Path("runs") / str(table["name"])
    return [Request(file, one, base, label, force) for label, one in config.combinations(table)]


def run(
    file: Path,
    settings: tuple[str, ...],
    out: Path | None,
    force: bool,
    debug: bool,
    only: int | None,
) -> None:
    """Run an experiment, each combination of its sweep in turn (or the one numbered `only`)."""
    wanted = list(enumerate(requests(file, settings, out, force)))
    if only is not None:
        if not 0 <= only < len(wanted):
            raise InputError(f"--only {only}: the combinations are numbered 0 to {len(wanted) - 1}")
        wanted = wanted[only : only + 1]
    place = ranks.inside()
    if place and len(wanted) > 1:
        raise InputError("inside mpiexec a [sweep] needs --only K; or run it without mpiexec")
    if place:
        be_rank(wanted[0][1], *place)
        return
    peers = [check(request) for _, request in wanted]  # all, before the first starts
    for (number, request), n in zip(wanted, peers, strict=True):
        if debug:
            be_threads(request, n)
        else:
            start_ranks(request, n, [*pass_on(settings), "--only", str(number)])
        click.echo(report.summary(request.folder))


def check(request: Request) -> int:
    """Everything that can be known before a rank starts; returns the number of peers."""
    ready = request.scenario()
    recorder.check_folder(request.folder, request.force)
    ready.hold(0)
    return ready.peers


def be_rank(request: Request, rank: int, size: int) -> None:
    """Be the peer that mpiexec started here."""
    ready = request.scenario()
    simulation.check_size(ready, size)
    wire = MPIWire()
    slurm.check_joined(size, wire.size)
    launched = "P2PSIM_LAUNCHED" in os.environ  # then the launcher speaks
    try:
        simulation.run_peer(ready, wire, request.folder, request.force)
    except PeerError as error:
        if not launched:
            click.echo(f"p2psim: {error}", err=True)
            see_it_taken()
        wire.abort(error.exit_code)
    if rank == 0 and not launched:
        click.echo(report.summary(request.folder))


def see_it_taken(limit: float = 2.0) -> None:
    """Wait until mpiexec has read what this rank wrote: from ranks that abort it reads no more."""
    sys.stderr.flush()
    until = time.monotonic() + limit
    with contextlib.suppress(OSError):  # what is no pipe cannot say, and need not
        while time.monotonic() < until and any(fcntl.ioctl(2, termios.FIONREAD, bytes(4))):
            time.sleep(0.01)
    time.sleep(0.1)  # to pass it on


def be_threads(request: Request, peers: int) -> None:
    """Be all peers (--debug)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        run_threads(
            peers,
            lambda wire: simulation.run_peer(
                request.scenario(), wire, request.folder, request.force
            ),
        )
    except KeyboardInterrupt:
        stopped(request.folder)


def pass_on(settings: tuple[str, ...]) -> list[str]:
    """The settings again, as arguments."""
    return [part for setting in settings for part in ("--set", setting)]


def start_ranks(request: Request, peers: int, options: list[str]) -> None:
    """Start the ranks, show how far they are, and say how it ended."""
    arguments = ["run", str(request.file), *options, "--out", str(request.base)]
    arguments += ["--force"] if request.force else []
    with Progress(request.folder.name, lambda: results.progress(request.folder)) as progress:
        code = ranks.start(peers, arguments, progress.update)
    if code == ranks.INTERRUPTED:
        stopped(request.folder)
    if code == InputError.exit_code:
        sys.exit(code)  # the ranks have said it
    if code:
        recorder.set_status(request.folder, "failed")
        killed = (
            f"a peer ended without a word (mpiexec: exit code {code}); "
            f"the rows so far are in {request.folder}"
        )
        raise PeerError("; ".join(results.failures(request.folder)) or killed)


def stopped(folder: Path) -> None:
    """Say that the user ended the run, and end."""
    recorder.set_status(folder, "stopped")
    rows = f"the rows so far are in {folder}"
    begun = (folder / "run.h5").exists()
    click.echo(f"p2psim: stopped{'; ' + rows if begun else ' before it began'}", err=True)
    sys.exit(STOPPED)
