"""Failures of a peer: which of them it reports itself, and which belong to another peer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import h5py
import pytest

from p2psim.simulation import run_file, session
from tests.mpi.test_surprises import odd
from tests.support.programs import p2psim, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file.attrs["status"] = "running"
    return tmp_path


def test_the_cause_may_be_recorded_after_a_peer_was_lost(folder: Path) -> None:
    later = threading.Timer(0.3, run_file.set_status, (folder, "failed"))
    later.start()
    assert session.has_failed(folder, limit=30)
    later.join()


def test_without_a_cause_a_peer_reports_its_own_error(folder: Path) -> None:
    began = time.monotonic()
    assert not session.has_failed(folder, limit=0.2)
    assert time.monotonic() - began >= 0.2


def test_a_hang_is_the_failure_of_the_culprit_alone(tmp_path: Path) -> None:
    """Another peer notices the hang while it waits inside the algorithm of the user."""
    file = odd(
        tmp_path,
        algorithm={"name": "odd.py:Odd", "what": "inside"},
        run={"patience": 3},
    )
    ended = run(p2psim("run", file, "--out", "out"), tmp_path)
    assert ended.code == 3, ended.stderr
    told = ended.messages()[-1]
    assert told.startswith("p2psim: peer 2 on ")
    assert "hangs: in phase 'local' of round 1" in told
    recorded = []
    for path in sorted((tmp_path / "out/peers").glob("peer-*.h5")):
        with h5py.File(path) as peer:
            recorded += [path.stem] * ("failure" in peer.attrs)
    assert recorded == ["peer-00002"]
