"""Checks of a run folder: whether a run can start in it or be resumed in it.

Functions named check_* raise InputError with the reason and the remedy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import tomli_w

from p2psim import __version__
from p2psim.errors import InputError
from p2psim.experiment.scenario import Scenario
from p2psim.simulation import checkpoint
from p2psim.simulation.run_format import COMPLETE, layout, peer_file

Table: TypeAlias = dict[str, Any]
# Seconds in which the processes of a finished run may still be exiting.
EXIT_SECONDS = 2.0
SAMPLED_EPOCHS = 1001  # at which the learning rates of two runs are compared


def check_writable(folder: Path) -> None:
    """Check that files can be written in this folder, or that it can be created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write to the run folder {str(folder)!r}, since you have no write access to "
            f"{str(existing)!r}: give another folder with --out DIR"
        )


def check_folder(folder: Path, force: bool) -> None:
    """Check that the folder is missing or empty; with `force` it may hold files."""
    blocked = next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None)
    if blocked:
        raise InputError(
            f"the run folder {str(folder)!r} cannot be created, since {str(blocked)!r} is a "
            "file: give another folder with --out DIR"
        )
    if folder.exists() and any(folder.iterdir()) and not force:
        if (folder / "run.h5").exists():
            state = "holds a run"
            remedy = "continue this run with --resume, or replace it with `p2psim run --force`"
        else:
            state = "is not empty"
            remedy = "or put the run beside the files in it with `p2psim run --force`"
        raise InputError(
            f"the run folder {str(folder)!r} {state}: give another with --out DIR, {remedy}"
        )


def check_sweep(folder: Path) -> None:
    """Check that the folder of a sweep holds no single run, which would hide the sweep's runs."""
    if (folder / "run.h5").exists():
        raise InputError(
            f"the folder {str(folder)!r} of this [sweep] holds a single run: give another folder "
            "with --out DIR, or move that run to another folder"
        )


def check_same(folder: Path, scenario: Scenario) -> None:
    """Check that the scenario can go on with the run in this folder.

    Both must have the same version, graph and experiment, except for section [run]. More rounds are
    allowed if `check_longer` allows them.
    """
    try:
        with h5py.File(folder / "run.h5", "r", locking=False) as file:
            old = tomllib.loads(file.attrs["experiment"])
            version, weights = file.attrs["p2psim_version"], file["topology/weights"][...]
            rounds = file["train/round"].shape[1]
            complete = file.attrs["status"] in COMPLETE
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"the run in {str(folder)!r} cannot be read ({error}): start it again with --force"
        ) from None
    # Through TOML and back, as the table in run.h5, so that equal values compare equal.
    new = tomllib.loads(tomli_w.dumps(scenario.experiment.table))
    if scenario.rounds > rounds:
        check_longer(folder, scenario, rounds, complete)
        old, new = ({**table, "rounds": 0, "epochs": 0} for table in (old, new))
    changes = [] if version == __version__ else [f"p2psim was {version} and is {__version__}"]
    changes += differences({**old, "run": {}}, {**new, "run": {}})  # [run] may change
    if not changes and not np.array_equal(weights, scenario.topology.weights):
        changes = ["the graph's file has changed"]
    if changes:
        more = f"; and {len(changes) - 4} more" * (len(changes) > 4)
        raise InputError(
            f"cannot resume the run in {str(folder)!r}, since the experiment has changed: "
            f"{'; '.join(changes[:4])}{more}: undo that, or start a new run with --out DIR or "
            "--force"
        )


def check_longer(folder: Path, scenario: Scenario, rounds: int, complete: bool) -> None:
    """Check that a run of `rounds` with the scenario's rounds is as if it had them from the start.

    InputError if its learning rates or its last rows would be others, or without a checkpoint.
    """
    section, before = scenario.experiment.eval, scenario.epochs * rounds / scenario.rounds
    epochs = np.linspace(0, before, SAMPLED_EPOCHS).tolist()
    rate = scenario.experiment.learning.optimizer.rate
    cause = ""
    if any(rate(epoch, before) != rate(epoch, scenario.epochs) for epoch in epochs):
        cause = "its learning rates depend on the length of the run"
    elif complete and rounds not in checkpoint.rounds(folder):
        cause = "it is complete and has kept no checkpoint; that needs run.last_checkpoint = true"
    elif complete and section.samples and rounds % section.every == 0:
        cause = "eval.samples is set, and the last evaluation of a run uses all samples"
    if cause:
        raise InputError(
            f"the run in {str(folder)!r} has {rounds} rounds and cannot go on to "
            f"{scenario.rounds}, since {cause}: start a new run with --out DIR or --force"
        )


def check_file(folder: Path, scenario: Scenario, rank: int, run: str) -> None:
    """Check that the file of peer `rank` belongs to run `run` and has the scenario's datasets.

    They may have fewer rows.
    """
    path = folder / peer_file(rank)
    expected = {name: shape for name, (shape, *_) in layout(scenario).items()}
    cause = "it belongs to another run or peer"
    try:
        with h5py.File(path, "r", locking=False) as file:
            shapes = {name: file[name].shape for name in expected}
            if all(map(fits, shapes.values(), expected.values())) and (
                file.attrs["rank"],
                file.attrs["run"],
            ) == (rank, run):
                return
    except (OSError, KeyError) as error:
        cause = str(error)
    raise InputError(
        f"cannot resume the run in {str(folder)!r}: {path.name} cannot be used ({cause}), so "
        "that the rows of that peer are lost; restore the file, or start a new run with --force"
    )


def fits(shape: tuple[int, ...], longer: tuple[int, ...]) -> bool:
    """Return True if `shape` equals `longer`, or has fewer entries on the first axis only."""
    return shape[1:] == longer[1:] and shape[:1] <= longer[:1]


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Return one phrase for each dotted key that differs between two experiments."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            text
            for name in {**old, **new}
            for text in differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
        ]
    values = ["not set" if value is None else repr(value) for value in (old, new)]
    return [] if old == new else [f"{key} was {values[0]} and is {values[1]}"]


def peer_attributes(path: Path) -> Table:
    """Return the attributes of a peer's file, with `failure` if one is recorded.

    {"lost": reason} if the file is missing or cannot be read.
    """
    if not path.is_file():
        return {"lost": "its file is missing"}
    try:
        with h5py.File(path, "r", locking=False) as file:
            attributes = dict(file.attrs)
            failure = file["now/failure"][()] if "now/failure" in file else b""
            if failure and "failure" not in attributes:
                attributes["failure"] = failure.decode(errors="replace")
            return attributes
    except OSError:
        return {"lost": "its file cannot be read"}


def alive(member: Table) -> bool:
    """Return False if the process of a peer has ended, True if it runs or may run.

    `member` is the result of `peer_attributes`. A process on another machine may always run.
    """
    if member["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(member["pid"]), 0)
    except OSError as error:  # else it runs, as another user's process
        return not isinstance(error, ProcessLookupError)
    return True


def check_idle(folder: Path) -> None:
    """Check that no peer of a run in this folder is running on this machine.

    Peers that are about to end get EXIT_SECONDS. Threads of a --debug run have released the folder.
    """
    if not (folder / "run.h5").exists():
        return
    for path in sorted(folder.glob("peers/peer-*.h5")):
        member = peer_attributes(path)
        if member.get("host") != socket.gethostname() or member["pid"] == os.getpid():
            continue  # on another machine it is unknown; this process itself is no other run
        if "released" in member:
            continue
        end = time.monotonic() + EXIT_SECONDS
        while is_rank(int(member["pid"])) and time.monotonic() < end:
            time.sleep(0.05)
        if is_rank(int(member["pid"])):
            raise InputError(
                f"a run is going on in {str(folder)!r} (process {member['pid']} is one of its "
                "peers): wait until it ends, stop it, or give another folder with --out DIR"
            )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder and lock it in this block.

    InputError if another process still holds the lock after EXIT_SECONDS. The system releases the
    lock of a process that ends in any way. A file system without locks is no error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + EXIT_SECONDS
        while not lock(descriptor):
            if time.monotonic() > end:
                raise InputError(
                    f"a run is going on in {str(folder)!r}: wait until it ends, stop it, or give "
                    "another folder with --out DIR"
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open folder; return False only if another process holds the lock.

    True also if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def is_rank(pid: int) -> bool:
    """Return True if `pid` may be a rank: a running process of p2psim or of Python."""
    with contextlib.suppress(OSError):
        # /proc/PID/stat is "PID (NAME) STATE ..."; Z and X are the states of an ended process.
        text = Path(f"/proc/{pid}/stat").read_text().partition("(")[2]
        return text.startswith(("p2psim:", "python")) and text.rpartition(") ")[2][0] not in "ZX"
    return False
