"""Run of one peer, from its start (startup.py) through its rounds (simulation.py) to its end."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2psim.errors import (
    AbortedError,
    InputError,
    PeerError,
    StoppedError,
    in_one_line,
    with_origin,
)
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.scenario import Scenario
from p2psim.network.collectives import ControlChannel
from p2psim.network.transport import Transport
from p2psim.simulation import crash_report, run_file, startup
from p2psim.simulation.agreement import RoundAgreement
from p2psim.simulation.checkpoint import CheckpointStore
from p2psim.simulation.event_log import EventLog
from p2psim.simulation.join import join_run_file
from p2psim.simulation.recorder import Recorder
from p2psim.simulation.run_format import COMPLETE
from p2psim.simulation.simulation import Simulation
from p2psim.simulation.watchdog import HangError, Watchdog


def run_peer(
    scenario: Scenario,
    transport: Transport,
    folder: Path,
    force: bool = False,
    resume: bool = False,
    stop_requested: Callable[[], bool] = bool,
    local_rank: int = 0,
    holdings: Holdings | None = None,
    try_plugins: bool = False,
) -> None:
    """Run one peer in the run folder `folder`.

    `stop_requested` returns True when the run is to stop soon, with a checkpoint. `local_rank` is
    the number of this peer on its node, `holdings` its samples if they have been read; for
    `try_plugins` see startup.check_all_peers.
    Raises InputError, PeerError and StoppedError, which have the exit codes of a run.
    """
    with convert_errors(transport.rank), contextlib.ExitStack() as resources:
        check_size(scenario, transport.size)
        folder = folder.absolute()  # a plug-in may change the current folder
        holdings = holdings or Holdings(scenario)
        run = scenario.experiment.run
        watchdog = Watchdog(folder, transport.size, run.patience, stop_requested)
        control = ControlChannel(transport, scenario.topology, watchdog)
        resume = resume and (folder / "run.h5").exists()
        flags = force, resume, local_rank, try_plugins
        device = startup.check_all_peers(holdings, folder, control, *flags)
        if resume and run_file.is_complete(folder, scenario.rounds):
            return
        startup.lock_run_folder(folder, control, resources)
        store = startup.open_store(holdings, folder, control, resume)
        writes_run_file = startup.create_run_folder(folder, control, anew=not store.round)
        most = run.join * 2**20 if writes_run_file else -1.0
        parts = Parts(scenario, holdings, transport, control, watchdog, device)
        resources.callback(crash_report.unregister)
        try:
            status = run_rounds(parts, store, writes_run_file, stop_requested)
        except StoppedError:
            finish(folder, "stopped", most, control)
            raise
        else:
            finish(folder, status, most, control)
            if not run.last_checkpoint:
                store.delete()


@contextlib.contextmanager
def convert_errors(rank: int) -> Iterator[None]:
    """Convert any unexpected exception into a PeerError, so that no other peer waits for this one.

    Failures in a round are recorded by `run_rounds`; those that arrive here are not.
    """
    try:
        yield
    except (InputError, AbortedError, PeerError, StoppedError, KeyboardInterrupt):
        raise
    except BaseException as error:
        where = f"peer {rank} on {socket.gethostname()} failed before its first round or after its"
        text = f"{where} last: {in_one_line(error)}"
        raise PeerError(with_origin(text, error), recorded=False) from error


def check_size(scenario: Scenario, size: int) -> None:
    """Check that the run has one rank for each peer; InputError otherwise."""
    if size != scenario.peers:
        raise InputError(
            f"peers = {scenario.peers}, but this run has {size} ranks: "
            f"start it with -n {scenario.peers}, or give --set peers={size}"
        )


@dataclass(frozen=True)
class Parts:
    """Parts of a peer that exist before its files: facts, samples, transport, device."""

    scenario: Scenario
    holdings: Holdings
    transport: Transport
    control: ControlChannel
    watchdog: Watchdog
    device: str


def run_rounds(
    parts: Parts, store: CheckpointStore, writes_run_file: bool, stop_requested: Callable[[], bool]
) -> str:
    """Open the files and run all rounds; returns the status of the run, "done" or "diverged".

    PeerError if this peer fails, after recording the cause. StoppedError if the peers have agreed
    to stop before the last round.
    """
    scenario, control, folder = parts.scenario, parts.control, store.folder
    rank, resume = parts.transport.rank, store.round > 0
    simulation = None
    try:
        startup.create_run_file(scenario, parts.transport.library, store, control, writes_run_file)
        log = Recorder(folder, scenario, rank, store.run, resume)
        crash_report.register(log.path)
        events = EventLog(folder, rank, resume) if scenario.scheduled else None
        simulation = Simulation(scenario, parts.transport, control, log, events, parts.watchdog)
        parts.watchdog.start(log)
        x = simulation.prepare(parts.holdings, parts.device)
        check = log.check_file if rank == 0 else None
        agreement = RoundAgreement(control, scenario.experiment.run, stop_requested, check)
        x = simulation.run(x, agreement, store)
        parts.watchdog.stop()
        diverged = not (np.isfinite(x).all() and np.isfinite(log.last_loss()))
        log.close(x)
        if events:
            events.close()
        # No peer ends before all have finished, and one that has diverged is enough.
        return "diverged" if control.maximum(np.array([float(diverged)]))[0] else "done"
    except (AbortedError, PeerError, StoppedError):
        raise
    except HangError as error:
        recorded = record_failure(folder, error.culprit, str(error))
        raise PeerError(str(error), recorded) from None
    except BaseException as error:  # also SystemExit of a plug-in: no other peer may wait forever
        if isinstance(error, KeyboardInterrupt) and stop_requested():
            raise  # of a signal, not of a plug-in
        text = f"peer {rank} on {socket.gethostname()} failed at the start: {in_one_line(error)}"
        text = simulation.failure(error) if simulation else text
        text = with_origin(text, error)
        if isinstance(error, parts.transport.failures) and has_failed(folder):
            raise PeerError(text) from error  # the cause is another peer, in whose file it stands
        recorded = record_failure(folder, rank, text, simulation.log if simulation else None)
        raise PeerError(text, recorded) from error


def has_failed(folder: Path, limit: float = 2.0) -> bool:
    """Return True once the failure of a peer is recorded, False if none is within `limit` seconds.

    The fork server may record the death of a peer only after other peers have lost it.
    """
    end = time.monotonic() + limit
    while run_file.status(folder) == "running" and time.monotonic() < end:
        time.sleep(0.05)
    return run_file.status(folder) == "failed"


def record_failure(folder: Path, rank: int, text: str, log: Recorder | None = None) -> bool:
    """Record the reason of a peer's failure; return False if that fails.

    log: the open file of the peer, which has room for the reason on a full disk as well.
    """
    try:
        run_file.set_failure(folder, rank, text)
    except OSError:
        if log:
            log.fail(text)
        return bool(log)
    return True


def finish(folder: Path, status: str, most: float, control: ControlChannel) -> None:
    """Record the final status of the run, and join its files if they have at most `most` bytes.

    One peer does this; `most` is negative on all others. Collective: every peer returns after that.
    """
    if most >= 0:
        run_file.set_status(folder, status)
        if status in COMPLETE:
            join_run_file(folder, most)
    control.barrier()
