"""A rank's part in a run: agreeing with the others to begin or to go on, and how it ends."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p2psim.errors import AbortedError, InputError, PeerError, StoppedError
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.scenario import Scenario
from p2psim.network.collectives import ControlChannel
from p2psim.network.transport import Transport
from p2psim.simulation import checkpoint, crash_report, devices, run_file, run_folder
from p2psim.simulation.agreement import RoundAgreement
from p2psim.simulation.checkpoint import CheckpointStore, DamagedError
from p2psim.simulation.event_log import EventLog
from p2psim.simulation.recorder import Recorder
from p2psim.simulation.simulation import Simulation
from p2psim.simulation.watchdog import HangError, Watchdog

CANDIDATES = 4  # rounds that a peer offers to go on from: two are kept, a death may leave a third


def run_peer(
    scenario: Scenario,
    wire: Transport,
    folder: Path,
    force: bool = False,
    resume: bool = False,
    stop_requested: Callable[[], bool] = bool,
    local_rank: int = 0,
    holdings: Holdings | None = None,
) -> None:
    """Run one peer in the run folder `folder`.

    `stop_requested` returns True when the run is to stop soon, with a checkpoint. `local_rank` is
    the number of this peer among those of its node, `holdings` its samples if they have been read.
    Raises InputError, PeerError and StoppedError, which have the exit codes of a run.
    """
    with outside_rounds(wire.rank):
        check_size(scenario, wire.size)
        folder = folder.absolute()  # whatever a plug-in makes the current one
        holdings = holdings or Holdings(scenario)
        watchdog = Watchdog(folder, wire.size, scenario.experiment.run.patience)
        control = ControlChannel(wire, scenario.topology, watchdog)
        resume = resume and (folder / "run.h5").exists()
        device = check_all_peers(holdings, folder, control, force, resume, local_rank)
        if resume and run_file.status(folder) == "done":
            return
        data = holdings.fingerprint(wire.rank)
        store = CheckpointStore(folder, wire.rank, data, lambda: run_file.identity(folder))
        store.round = select_checkpoint(store, control) if resume else 0
        if store.round:
            raise_on_all(
                capture_error(run_folder.check_file, folder, scenario, wire.rank, store.run),
                control,
            )
        writes_run_file = create_run_folder(folder, control, anew=not store.round)
        try:
            parts = Parts(scenario, holdings, wire, control, watchdog, device)
            perform(parts, store, writes_run_file, stop_requested)
        except StoppedError:
            finish(folder, "stopped", writes_run_file, control)
            raise
        else:
            finish(folder, "done", writes_run_file, control)
            store.delete()
        finally:
            crash_report.unregister()


@contextlib.contextmanager
def outside_rounds(rank: int) -> Iterator[None]:
    """What goes wrong unforeseen is this peer's failure: the others must not wait for it."""
    try:
        yield
    except (InputError, AbortedError, PeerError, StoppedError, KeyboardInterrupt):
        raise
    except BaseException as error:
        cause = f"{type(error).__name__}: {error}".replace("\n", " ")
        where = f"peer {rank} on {socket.gethostname()} failed before its first round or after its"
        raise PeerError(f"{where} last: {cause}", recorded=False) from error


@dataclass(frozen=True)
class Parts:
    """The parts of a peer that exist before its files: facts, samples, transport, device."""

    scenario: Scenario
    holdings: Holdings
    wire: Transport
    control: ControlChannel
    watchdog: Watchdog
    device: str


def perform(
    parts: Parts, store: CheckpointStore, writes_run_file: bool, stop_requested: Callable[[], bool]
) -> None:
    """Run all rounds; PeerError where this peer fails, after the cause has been recorded."""
    scenario, wire, control, folder = parts.scenario, parts.wire, parts.control, store.folder
    simulation = None
    try:
        if writes_run_file and store.round:
            run_file.record_resume(folder, store.round)
        elif writes_run_file:
            run_file.create_run_file(folder, scenario, wire.library)
        control.barrier()  # from here on a failure can be written down
        log = Recorder(folder, scenario, wire.rank, resume=store.round > 0)
        crash_report.register(log.path)
        schedule = None
        if scenario.scheduled:
            schedule = EventLog(folder, wire.rank, resume=store.round > 0)
        simulation = Simulation(scenario, wire, control, log, schedule, parts.watchdog)
        parts.watchdog.start(log)
        x = simulation.prepare(parts.holdings, parts.device)
        agreement = RoundAgreement(control, scenario.experiment.run, stop_requested)
        x = simulation.run(x, agreement, store)
        parts.watchdog.stop()
        log.close(x)
        if schedule:
            schedule.close()
        control.barrier()  # nobody leaves before all have finished
    except (AbortedError, KeyboardInterrupt, StoppedError):
        raise
    except HangError as error:
        raise PeerError(str(error), record(folder, error.culprit, str(error))) from None
    except BaseException as error:  # also sys.exit: the others must not wait for this peer
        text = simulation.failure(error) if simulation else f"peer {wire.rank}: {error!r}"
        raise PeerError(text, record(folder, wire.rank, text)) from error


def record(folder: Path, rank: int, text: str) -> bool:
    """Write down why a peer failed; False where a full disk, say, has no room for it."""
    try:
        run_file.set_failure(folder, rank, text)
    except OSError:
        return False
    return True


def finish(folder: Path, status: str, writes_run_file: bool, control: ControlChannel) -> None:
    """Write how the run ended; whoever returns from here can rely on it."""
    if writes_run_file:
        run_file.set_status(folder, status)
    control.barrier()


def check_size(scenario: Scenario, size: int) -> None:
    """One rank per peer."""
    if size != scenario.peers:
        raise InputError(
            f"peers = {scenario.peers}, but this run has {size} ranks: "
            f"start it with -n {scenario.peers}, or give --set peers={size}"
        )


def check_all_peers(
    holdings: Holdings,
    folder: Path,
    control: ControlChannel,
    force: bool,
    resume: bool,
    local_rank: int,
) -> str:
    """Run all start-up checks on every peer; returns the device of this one.

    If a check fails, the lowest failing rank raises its error, all others AbortedError.
    """
    scenario = holdings.scenario
    busy = capture_error(run_folder.check_idle, folder) if control.rank == 0 else None
    raise_on_all(busy, control)  # before anybody has a file that is new
    devices_found: list[str] = []

    def checks() -> None:
        if resume:
            run_folder.check_same(folder, scenario)
        else:
            run_folder.check_folder(folder, force)
        devices_found.append(devices.pick(scenario.experiment.run.device, local_rank))

    problem = capture_error(checks)
    raise_on_all(problem or capture_error(holdings.bind_task, control.rank), control)
    return devices_found[0]


def capture_error(check: Callable[..., object], *arguments: Any) -> InputError | None:
    """What a check has to say."""
    try:
        check(*arguments)
    except InputError as error:
        return error
    return None


def raise_on_all(problem: InputError | None, control: ControlChannel) -> None:
    """Raise on all peers if there is a problem on one: it says it, the others are silent."""
    order = float(control.peers - control.rank)  # the first rank has the highest
    highest = control.maximum(np.array([order if problem else 0.0]))[0]
    if not highest:
        return
    if problem and order == highest:
        problem.report_from_any_rank = True
        raise problem
    raise AbortedError


def select_checkpoint(store: CheckpointStore, control: ControlChannel) -> int:
    """The newest round after which every peer has a whole checkpoint; 0 where there is none."""
    whole, problem = [], None
    try:
        for round_ in checkpoint.rounds(store.folder)[:CANDIDATES]:
            try:
                store.check(round_)
                whole.append(round_)
            except DamagedError as error:
                notice(f"checkpoint of round {round_}, peer {store.rank}: {error}; not used")
    except InputError as error:
        problem = error
    raise_on_all(problem, control)
    mine = np.zeros(CANDIDATES)
    mine[: len(whole)] = whole
    everyone = control.gather(mine)
    common = set(whole).intersection(*(set(row.astype(int).tolist()) for row in everyone))
    chosen = max(common, default=0)
    if control.rank == 0:
        notice(f"going on after round {chosen}" if chosen else "no checkpoint: from the beginning")
    return chosen


def notice(text: str) -> None:
    """Tell the user something that is no error."""
    print(f"p2psim: {text}", file=sys.stderr, flush=True)


def create_run_folder(folder: Path, control: ControlChannel, anew: bool) -> bool:
    """Make the run folder; True for the one peer, the first to come, that writes run.h5."""

    def clear() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        run_file.clear(folder, anew)

    claimed: list[bool] = []
    raise_on_all(capture_error(written, folder, clear), control)
    raise_on_all(
        capture_error(written, folder, lambda: claimed.append(run_file.claim_run_file(folder))),
        control,
    )
    return claimed[0]


def written(folder: Path, write: Callable[[], None]) -> None:
    """Write something in the run folder; InputError where that cannot be."""
    try:
        write()
    except OSError as error:
        raise InputError(f"cannot write to the run folder {str(folder)!r}: {error}") from None
