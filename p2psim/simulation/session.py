"""A rank's part in a run: agreeing with the others to begin or to go on, and how it ends."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from p2psim.errors import AbortedError, InputError, PeerError, StoppedError
from p2psim.experiment.scenario import Scenario
from p2psim.network.clock import Clock
from p2psim.network.neighborhood import Neighborhood
from p2psim.network.transport import Wire
from p2psim.simulation import checkpoint, crash_report, devices, recorder, run_folder
from p2psim.simulation.agreement import Pulse
from p2psim.simulation.checkpoint import Book, DamagedError
from p2psim.simulation.event_log import Schedule
from p2psim.simulation.simulation import Simulation
from p2psim.simulation.watchdog import HangError, Watchdog

CANDIDATES = 4  # rounds that a peer offers to go on from: two are kept, a death may leave a third


def run_peer(
    scenario: Scenario,
    wire: Wire,
    folder: Path,
    force: bool = False,
    resume: bool = False,
    asked: Callable[[], bool] = bool,
    local_rank: int = 0,
) -> None:
    """Be one peer of a run in `folder`; `asked` says whether to stop soon, with a checkpoint.

    `local_rank` is the number of this peer among those of its node.

    InputError, PeerError and StoppedError as the exit codes say.
    """
    with outside_rounds(wire.rank):
        check_size(scenario, wire.size)
        folder = folder.absolute()  # whatever a plug-in makes the current one
        side = Neighborhood(wire.twin(), scenario.topology, Clock())
        resume = resume and (folder / "run.h5").exists()
        agree(scenario, folder, side, force, resume, local_rank)
        if resume and recorder.status(folder) == "done":
            return
        data = scenario.fingerprint(wire.rank)
        book = Book(folder, wire.rank, data, lambda: recorder.identity(folder))
        book.round = choose(book, side) if resume else 0
        if book.round:
            unite(problem_of(run_folder.check_file, folder, scenario, wire.rank, book.run), side)
        scribe = enter(folder, side, anew=not book.round)
        try:
            perform(scenario, wire, side, book, scribe, asked)
        except StoppedError:
            finish(folder, "stopped", scribe, side)
            raise
        else:
            finish(folder, "done", scribe, side)
            book.forget()
        finally:
            crash_report.revoke()


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


def perform(
    scenario: Scenario,
    wire: Wire,
    side: Neighborhood,
    book: Book,
    scribe: bool,
    asked: Callable[[], bool],
) -> None:
    """Go through all rounds; PeerError where this peer fails, after that has been written down."""
    folder, settings = book.folder, scenario.experiment.run
    simulation = None
    try:
        if scribe and book.round:
            recorder.go_on(folder, book.round)
        elif scribe:
            recorder.create_run_file(folder, scenario, wire.library)
        side.maximum(np.zeros(1))  # from here on a failure can be written down
        log = recorder.Recorder(folder, scenario, wire.rank, resume=book.round > 0)
        crash_report.leave(log.path)
        schedule = None
        if scenario.scheduled:
            schedule = Schedule(folder, wire.rank, resume=book.round > 0)
        simulation = Simulation(scenario, wire, side, log, schedule)
        simulation.net.alarm = side.alarm = Watchdog(folder, wire.size, log, settings.patience)
        simulation.run(Pulse(side, settings, asked), book)
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
        recorder.set_failure(folder, rank, text)
    except OSError:
        return False
    return True


def finish(folder: Path, status: str, scribe: bool, side: Neighborhood) -> None:
    """Write how the run ended; whoever returns from here can rely on it."""
    if scribe:
        recorder.set_status(folder, status)
    side.maximum(np.zeros(1))


def check_size(scenario: Scenario, size: int) -> None:
    """One rank per peer."""
    if size != scenario.peers:
        raise InputError(
            f"peers = {scenario.peers}, but this run has {size} ranks: "
            f"start it with -n {scenario.peers}, or give --set peers={size}"
        )


def agree(
    scenario: Scenario,
    folder: Path,
    side: Neighborhood,
    force: bool,
    resume: bool,
    local_rank: int,
) -> None:
    """All peers go on, or none: the first that cannot says why, the others end silently."""
    busy = problem_of(run_folder.check_idle, folder) if side.rank == 0 else None
    unite(busy, side)  # before anybody has a file that is new
    if resume:
        problem = problem_of(run_folder.check_same, folder, scenario)
    else:
        problem = problem_of(run_folder.check_folder, folder, force)
    problem = problem or problem_of(choose_device, scenario, local_rank)
    unite(problem or problem_of(scenario.hold, side.rank), side)


def choose_device(scenario: Scenario, local_rank: int) -> None:
    """Where this peer computes: the peers of a node take turns with its GPUs."""
    scenario.device = devices.pick(scenario.experiment.run.device, local_rank)


def problem_of(check: Callable[..., object], *arguments: Any) -> InputError | None:
    """What a check has to say."""
    try:
        check(*arguments)
    except InputError as error:
        return error
    return None


def unite(problem: InputError | None, side: Neighborhood) -> None:
    """Raise on all peers if there is a problem on one: it says it, the others are silent."""
    order = float(side.peers - side.rank)  # the first rank has the highest
    highest = side.maximum(np.array([order if problem else 0.0]))[0]
    if not highest:
        return
    if problem and order == highest:
        problem.speaks = True
        raise problem
    raise AbortedError


def choose(book: Book, side: Neighborhood) -> int:
    """The newest round after which every peer has a whole checkpoint; 0 where there is none."""
    whole, problem = [], None
    try:
        for round_ in checkpoint.rounds(book.folder)[:CANDIDATES]:
            try:
                book.check(round_)
                whole.append(round_)
            except DamagedError as error:
                notice(f"checkpoint of round {round_}, peer {book.rank}: {error}; not used")
    except InputError as error:
        problem = error
    unite(problem, side)
    mine = np.zeros(CANDIDATES)
    mine[: len(whole)] = whole
    everyone = side.gather(mine)
    common = set(whole).intersection(*(set(row.astype(int).tolist()) for row in everyone))
    chosen = max(common, default=0)
    if side.rank == 0:
        notice(f"going on after round {chosen}" if chosen else "no checkpoint: from the beginning")
    return chosen


def notice(text: str) -> None:
    """Tell the user something that is no error."""
    print(f"p2psim: {text}", file=sys.stderr, flush=True)


def enter(folder: Path, side: Neighborhood, anew: bool) -> bool:
    """Make the run folder; True for the one peer, the first to come, that writes run.h5."""

    def clear() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        recorder.clear(folder, anew)

    claimed: list[bool] = []
    unite(problem_of(written, folder, clear), side)
    unite(problem_of(written, folder, lambda: claimed.append(recorder.claim(folder))), side)
    return claimed[0]


def written(folder: Path, write: Callable[[], None]) -> None:
    """Write something in the run folder; InputError where that cannot be."""
    try:
        write()
    except OSError as error:
        raise InputError(f"cannot write to the run folder {str(folder)!r}: {error}") from None
