"""Whether a run can start in a folder, or go on in it. InputError says why not."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import tomllib
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import tomli_w

from p2psim import __version__
from p2psim.errors import InputError
from p2psim.experiment.scenario import Scenario
from p2psim.simulation import recorder

Table: TypeAlias = dict[str, Any]
DYING = 2.0  # seconds that a run may take to end once it is over


def check_writable(folder: Path) -> None:
    """InputError where nothing can be written in this folder, or it cannot be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write to the run folder {str(folder)!r}, since {str(there)!r} is closed to "
            "you: give another with --out DIR"
        )


def check_folder(folder: Path, force: bool) -> None:
    """InputError where a run in this folder would overwrite something, or cannot be."""
    blocked = next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None)
    if blocked:
        raise InputError(
            f"the run folder {str(folder)!r} cannot be made, since {str(blocked)!r} is a file: "
            "give another with --out DIR"
        )
    if folder.exists() and any(folder.iterdir()) and not force:
        go_on = "--resume to go on with the run in it, " * (folder / "run.h5").exists()
        raise InputError(
            f"the run folder {str(folder)!r} exists and is not empty: give another with --out "
            f"DIR, {go_on}or --force to replace what is in it"
        )


def check_same(folder: Path, scenario: Scenario) -> None:
    """InputError where the run in this folder is not the run of this scenario."""
    try:
        with h5py.File(folder / "run.h5", "r", locking=False) as file:
            was = tomllib.loads(file.attrs["experiment"])
            version, weights = file.attrs["p2psim_version"], file["topology/weights"][...]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"the run in {str(folder)!r} cannot be read ({error}): start it again with --force"
        ) from None
    now = tomllib.loads(tomli_w.dumps(scenario.experiment.table))
    found = [] if version == __version__ else [f"p2psim was {version} and is {__version__}"]
    found += differences({**was, "run": {}}, {**now, "run": {}})
    if not found and not np.array_equal(weights, scenario.topology.weights):
        found = ["the graph's file has changed"]
    if found:
        more = f"; and {len(found) - 4} more" * (len(found) > 4)
        raise InputError(
            f"cannot resume the run in {str(folder)!r}, since the experiment has changed: "
            f"{'; '.join(found[:4])}{more}: undo that, or start anew with --out DIR or --force"
        )


def check_file(folder: Path, scenario: Scenario, rank: int, run: str) -> None:
    """InputError where the rows of this peer of that run cannot be gone on with."""
    path = folder / recorder.peer_file(rank)
    layout = {name: shape for name, (shape, *_) in recorder.layout(scenario).items()}
    why = "it belongs elsewhere"
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = {name: file[name].shape for name in layout}
            if found == layout and (file.attrs["rank"], file.attrs["run"]) == (rank, run):
                return
    except (OSError, KeyError) as error:
        why = str(error)
    raise InputError(
        f"cannot resume the run in {str(folder)!r}: {path.name} cannot be used ({why}), and "
        "with it the rows of that peer are lost; bring it back, or start anew with --force"
    )


def differences(was: Any, now: Any, key: str = "") -> list[str]:
    """What differs between two experiments, by dotted key."""
    if isinstance(was, dict) and isinstance(now, dict):
        return [
            text
            for name in {**was, **now}
            for text in differences(was.get(name), now.get(name), f"{key}.{name}".lstrip("."))
        ]
    said = ["not there" if value is None else repr(value) for value in (was, now)]
    return [] if was == now else [f"{key} was {said[0]} and is {said[1]}"]


def peer_attributes(path: Path) -> Table:
    """Attributes of a peer's file; `lost` says why they cannot be read."""
    if not path.exists():
        return {"lost": "its file is missing"}
    try:
        with h5py.File(path, "r", locking=False) as file:
            return dict(file.attrs)
    except OSError:
        return {"lost": "its file cannot be read"}


def alive(member: Table) -> bool:
    """Whether the peer may still be running; on another machine nobody can tell."""
    if member["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(member["pid"]), 0)
    except OSError as error:  # else it is there, but somebody else's
        return not isinstance(error, ProcessLookupError)
    return True


def check_idle(folder: Path) -> None:
    """InputError while a run is going on in this folder, as far as this machine can tell."""
    if not (folder / "run.h5").exists():
        return
    for path in sorted(folder.glob("peers/peer-*.h5")):
        member = peer_attributes(path)
        if member.get("host") != socket.gethostname() or member["pid"] == os.getpid():
            continue  # elsewhere nobody can tell, and a process knows itself what it does
        end = time.monotonic() + DYING
        while is_rank(int(member["pid"])) and time.monotonic() < end:
            time.sleep(0.05)
        if is_rank(int(member["pid"])):
            raise InputError(
                f"a run is going on in {str(folder)!r} (process {member['pid']} is one of its "
                "peers): wait for its end or stop it, or give another folder with --out DIR"
            )


def is_rank(pid: int) -> bool:
    """Whether this is a running rank: a number alone may have gone to another process."""
    with contextlib.suppress(OSError):
        rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2]
        return rest.startswith(("p2psim:", "python")) and rest.rpartition(") ")[2][0] not in "ZX"
    return False
