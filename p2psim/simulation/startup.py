"""Start of a run: checks on every peer, the checkpoint to resume from, and the run folder.

All functions with a control channel are collective. If one peer cannot go on, none does: one peer
reports the error and all others end without a message.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from p2psim.errors import AbortedError, InputError, notice
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.scenario import Scenario
from p2psim.network.collectives import ControlChannel
from p2psim.simulation import checkpoint, devices, run_file, run_folder
from p2psim.simulation.checkpoint import CheckpointStore, DamagedError
from p2psim.simulation.learning_check import check_learning

# Checkpoints that each peer offers. A run keeps two, and a crash while one is written leaves three.
CANDIDATES = 4


def check_all_peers(
    holdings: Holdings,
    folder: Path,
    control: ControlChannel,
    force: bool,
    resume: bool,
    local_rank: int,
    try_plugins: bool = False,
) -> str:
    """Check on all peers that the run can start, and bind the task; returns this peer's device.

    With `try_plugins`, rank 0 also tries a user's plug-ins of learning. If a check fails, the
    lowest failing rank raises its error, all others AbortedError.
    """
    scenario = holdings.scenario
    # Rank 0 checks this before any peer creates a file, or it could take that peer for another run.
    busy = capture_error(run_folder.check_idle, folder) if control.rank == 0 else None
    raise_on_all(busy, control)
    device = ""

    def check_folder_and_device() -> None:
        nonlocal device
        if resume:
            run_folder.check_same(folder, scenario)
        else:
            run_folder.check_folder(folder, force)
        device = devices.pick(scenario.experiment.run.device, local_rank)

    problem = capture_error(check_folder_and_device)
    raise_on_all(problem or capture_error(holdings.bind_task, control.rank), control)
    if try_plugins:
        first = control.rank == 0
        raise_on_all(capture_error(check_learning, holdings) if first else None, control)
    return device


def lock_run_folder(folder: Path, control: ControlChannel, resources: ExitStack) -> None:
    """Let rank 0 create the run folder and lock it against other runs, until `resources` closes.

    InputError if the folder cannot be written or another run has locked it.
    """

    def lock() -> None:
        resources.enter_context(run_folder.locked(folder))

    problem = capture_error(write_or_refuse, folder, lock) if control.rank == 0 else None
    raise_on_all(problem, control)


def capture_error(check: Callable[..., object], *arguments: Any) -> InputError | None:
    """Call a check; return its InputError, or None if it raises none."""
    try:
        check(*arguments)
    except InputError as error:
        return error
    return None


def raise_on_all(problem: InputError | None, control: ControlChannel) -> None:
    """Raise `problem` on the lowest rank that has one, AbortedError on all others; collective."""
    order = float(control.peers - control.rank)  # the lowest rank has the highest order
    highest = control.maximum(np.array([order if problem else 0.0]))[0]
    if not highest:
        return
    if problem and order == highest:
        problem.report_from_any_rank = True
        raise problem
    raise AbortedError


def open_store(
    holdings: Holdings, folder: Path, control: ControlChannel, resume: bool
) -> CheckpointStore:
    """Return this peer's checkpoints; `round` is the one to resume from, 0 to begin the run anew.

    InputError if a checkpoint exists but the samples or the peer's file do not fit it.
    """
    rank = control.rank
    data = holdings.fingerprint(rank)
    store = CheckpointStore(folder, rank, data, run_file.identity(folder) if resume else "")
    # Read before the collective: after it, another peer may begin to clear the folder.
    complete = resume and run_file.is_complete(folder)
    store.round = select_checkpoint(store, control) if resume else 0
    if complete and not store.round:
        raise InputError(
            f"cannot add rounds to the run in {str(folder)!r}, since its last checkpoint is "
            "missing or damaged: start a new run with --out DIR"
        )
    if store.round:
        check = run_folder.check_file
        raise_on_all(capture_error(check, folder, holdings.scenario, rank, store.run), control)
    return store


def select_checkpoint(store: CheckpointStore, control: ControlChannel) -> int:
    """Return the last round after which every peer has a valid checkpoint, 0 if there is none."""
    valid, problem = [], None
    try:
        for round_ in checkpoint.rounds(store.folder)[:CANDIDATES]:
            try:
                store.check(round_)
                valid.append(round_)
            except DamagedError as error:
                notice(f"checkpoint of round {round_}, peer {store.rank}: {error}; not used")
    except InputError as error:
        problem = error
    raise_on_all(problem, control)
    own = np.zeros(CANDIDATES)
    own[: len(valid)] = valid
    rows = control.gather(own)
    common = set(valid).intersection(*(set(row.astype(int).tolist()) for row in rows))
    last = max(common, default=0)
    if control.rank == 0:
        notice(f"going on after round {last}" if last else "no checkpoint: from the beginning")
    return last


def create_run_folder(folder: Path, control: ControlChannel, anew: bool) -> bool:
    """Remove the files that this run must not find; return True on the peer that writes run.h5.

    With `anew` these are all files of an earlier run, otherwise its marks alone.
    """
    claimed = False

    def clear() -> None:
        run_file.clear(folder, anew)
        (folder / "peers").mkdir(exist_ok=True)  # before run.h5, which refers to it

    def claim_file() -> None:
        nonlocal claimed
        claimed = run_file.claim_run_file(folder)

    # All peers clear before the first one claims: `clear` removes the claim of an earlier run.
    for write in (clear, claim_file):
        raise_on_all(capture_error(write_or_refuse, folder, write), control)
    return claimed


def create_run_file(
    scenario: Scenario, library: str, store: CheckpointStore, control: ControlChannel, writes: bool
) -> None:
    """Write run.h5 on the peer that has `writes`; give `store` the identifier of the run.

    `library` is the name of the transport's library. After this call a failure can be recorded.
    """
    run = run_file.create_run_file(store.folder, scenario, library, store.round) if writes else ""
    store.run = control.common_text(run, run_file.ID_LENGTH)
    run_file.wait_until_visible(store.folder)


def write_or_refuse(folder: Path, write: Callable[[], None]) -> None:
    """Call `write`, which writes into the run folder; an OSError of it becomes an InputError."""
    try:
        write()
    except OSError as error:
        raise InputError(f"cannot write to the run folder {str(folder)!r}: {error}") from None
