"""When a peer fails, is killed or is interrupted: the run ends soon, says why, stays readable."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from p2psim.analysis import results
from tests.support.programs import (
    Completed,
    Program,
    Table,
    alive,
    descendants,
    invoke,
    p2psim,
    pids,
    run,
    under_mpiexec,
    wait_until_ended,
    write,
)
from tests.support.thorough import thorough

PEERS, ROUNDS, EVERY = 3, 20, 3
VICTIM, ROUND = 2, 6  # an evaluation round
LONG = 2000  # rounds of a run that does not end by itself
SOON = 5.0  # seconds from the exception to the end of the run
# A thread knows where its own peer is: under mpiexec there is one, with --debug there are all.
PLUGIN = """
import os, threading, time
from pathlib import Path
import torch
from p2psim.base import Algorithm
from p2psim.models.linear import LinearModel
from p2psim.registry import plugin

HERE = type("Here", (threading.local,), {"phase": None})()

def at(phase):
    HERE.phase = phase
    if (HERE.rank, HERE.round, phase) == (VICTIM, ROUND, PHASE):
        Path(__file__).with_name("raised").write_text(repr(time.time()))
        raise ArithmeticError("the cause\\nin two lines")

@plugin("algorithm", "failing")
class Failing(Algorithm):
    requires = ("row-stochastic",)
    pause: float = 0.0

    def start(self, x, oracle, net):
        HERE.rank, HERE.round = net.rank, 0
        at("start")
        measure = getattr(oracle, "mean_loss", None)  # none before the start
        oracle.mean_loss = lambda: at("record") or measure()

    def local(self, x, oracle, net):
        HERE.round += 1
        time.sleep(self.pause)
        at("local")
        return super().local(x, oracle, net)

    def consensus(self, x, oracle, net):
        at("consensus")
        return net.mix(x)

class Product(torch.nn.Sequential):
    def forward(self, inputs):
        if not self.training and HERE.phase in ("local", "consensus"):
            phase, HERE.phase = HERE.phase, None
            try:
                at(f"evaluation after {phase}")
            finally:
                HERE.phase = phase
        return super().forward(inputs)

@plugin("model", "failing")
class FailingModel(LinearModel):
    def build(self, inputs, outputs):
        return Product(*super().build(inputs, outputs))
"""


def experiment(
    folder: Path, phase: str = "", round_: int = ROUND, pause: float = 0.0, rounds: int = ROUNDS
) -> Path:
    """An experiment whose peer VICTIM fails in `phase` (never without), and its plug-in file."""
    header = f"VICTIM, ROUND, PHASE = {VICTIM}, {round_}, {phase!r}\n"
    (folder / "failing.py").write_text(header + PLUGIN)
    table: Table = {
        "peers": PEERS,
        "rounds": rounds,
        "data": {"name": "digits", "batch_size": 16},
        "model": {"name": "failing.py:FailingModel"},
        "algorithm": {"name": "failing.py:Failing", "pause": pause},
        "topology": "ring",
        "eval": {"every": EVERY},
        "run": {"join": 0},
    }
    return write(folder, table)


# Ways to start a run: each makes a command from an experiment file.
WAYS: dict[str, Callable[[Path], list[str]]] = {
    "launcher": lambda file: p2psim("run", file, "--out", "out"),
    "mpiexec": lambda file: under_mpiexec(PEERS, p2psim("run", file, "--out", "out")),
    "debug": lambda file: p2psim("run", file, "--out", "out", "--debug"),
}


def by_debug(file: Path) -> Completed:
    """Run an experiment by --debug in this process, which has imported torch already."""
    ended = invoke("run", file, "--out", file.parent / "out", "--debug")
    return Completed(ended.exit_code, ended.stdout, ended.stderr, time.time())


def columns(run_folder: Path, group: str) -> dict[str, Any]:
    """All columns of a group that hold one number a row."""
    with h5py.File(run_folder / "run.h5", "r", locking=False) as file:
        return {name: data[:] for name, data in file[group].items() if data.ndim == 2}


def rows_of(columns: dict[str, Any], rank: int) -> int:
    """Rows that a peer has: finite numbers first, then -1 and NaN alone. AssertionError else."""
    count = int((columns["round"][rank] >= 0).sum())
    assert (np.diff(columns["round"][rank, :count]) >= 0).all()
    for name, values in columns.items():
        before, after = values[rank, :count], values[rank, count:]
        if name == "unseen_accuracy":  # every peer has seen all classes
            assert np.isnan(before).all()
        else:
            assert np.isfinite(before).all(), name
            assert (before >= 0).all(), name
        assert (after == -1).all() if values.dtype.kind == "i" else np.isnan(after).all(), name
    return count


def failure(folder: Path, phase: str, round_: int) -> str:
    """The sentence about the failure: which peer, where, in what, why, in which line of whom."""
    plugin = folder / "failing.py"
    lines = plugin.read_text().splitlines()
    line = 1 + next(k for k, text in enumerate(lines) if "raise ArithmeticError" in text)
    place = f"in phase {phase!r} of round {round_}" if round_ else "at the start"
    return (
        f"peer {VICTIM} on {socket.gethostname()} failed {place}: "
        f"ArithmeticError: the cause in two lines ({plugin} line {line})"
    )


def assert_told(ended: Completed, folder: Path, phase: str, round_: int) -> None:
    """Exit code 3 and one line."""
    assert ended.code == 3, ended.stderr
    assert ended.messages() == [f"p2psim: {failure(folder, phase, round_)}"]
    assert "Traceback" not in ended.stderr


def assert_readable(folder: Path, phase: str, round_: int) -> None:
    """The victim's rows end where it failed; nobody's are damaged."""
    run_folder = folder / "out"
    with results.open_run(run_folder) as file:
        assert file.attrs["status"] == "failed"
        assert np.isnan(file["final/x"][:]).all()
    assert results.failures(run_folder) == [failure(folder, phase, round_)]
    train, evaluation = columns(run_folder, "train"), columns(run_folder, "eval")
    assert rows_of(train, VICTIM) == max(0, round_ - 1)
    both = 2 * (max(0, round_ - 1) // EVERY)
    extra = {"evaluation after consensus": 1, "consensus": 1, "record": 2}
    assert rows_of(evaluation, VICTIM) == both + extra.get(phase, 0)
    for rank in range(PEERS):
        # An evaluation needs all peers: nobody is one ahead of the victim.
        assert both - 1 <= rows_of(evaluation, rank) <= both + extra.get(phase, 0) + 1
        assert max(0, both // 2 * EVERY - 1) <= rows_of(train, rank) <= round_ + EVERY
    assert (train["round"][VICTIM, : max(0, round_ - 1)] == np.arange(1, max(1, round_))).all()


EVALUATIONS = ["evaluation after local", "evaluation after consensus"]
PHASES = {"start": 0, **dict.fromkeys(["local", "consensus", *EVALUATIONS, "record"], ROUND)}
TRIED = {"start": "launcher", "consensus": "mpiexec"}  # else: debug


@pytest.mark.parametrize(
    ("phase", "way"),
    [
        *((phase, TRIED.get(phase, "debug")) for phase in PHASES),
        *(thorough(phase, "launcher") for phase in PHASES if TRIED.get(phase) != "launcher"),
        *(thorough("start", "mpiexec"), thorough("consensus", "debug")),
    ],
)
def test_an_exception_ends_the_run_and_is_told(phase: str, way: str, tmp_path: Path) -> None:
    file = experiment(tmp_path, phase, PHASES[phase])
    ended = by_debug(file) if way == "debug" else run(WAYS[way](file), tmp_path)
    took = ended.at - float((tmp_path / "raised").read_text())
    assert_told(ended, tmp_path, phase, PHASES[phase])
    assert_readable(tmp_path, phase, PHASES[phase])
    assert took < SOON, f"{took:.1f} s"
    assert way == "debug" or wait_until_ended(pids(tmp_path / "out"))


@pytest.mark.parametrize("way", [thorough("launcher"), thorough("mpiexec"), "debug"])
def test_a_peer_that_calls_exit_ends_the_run(way: str, tmp_path: Path) -> None:
    file = experiment(tmp_path, "local")
    plugin = tmp_path / "failing.py"
    left = plugin.read_text().replace(
        'raise ArithmeticError("the cause\\nin two lines")', "exit(0)"
    )
    plugin.write_text(left)
    ended = run(WAYS[way](file), tmp_path)
    assert ended.code == 3, ended.stderr
    assert any("SystemExit: 0" in line for line in ended.messages()), ended.stderr
    assert wait_until_ended(pids(tmp_path / "out"))


def test_without_a_failure_the_plug_in_runs_to_the_end(tmp_path: Path) -> None:
    """Else the tests above would show nothing."""
    ended = by_debug(experiment(tmp_path))
    assert ended.code == 0, ended.stderr
    assert not (tmp_path / "raised").exists()
    for rank in range(PEERS):
        assert rows_of(columns(tmp_path / "out", "train"), rank) == ROUNDS


def wait_for(seen: Callable[[], bool], started: Program, limit: float = 90) -> None:
    """Until something is there; AssertionError where the program ends before, or after `limit`."""
    end = time.monotonic() + limit
    while not seen():
        assert started.process.poll() is None, started.text(started.err)
        assert time.monotonic() < end, started.text(started.err)
        time.sleep(0.1)


def evaluated(folder: Path) -> bool:
    """Whether the first evaluation of all peers is in the file, seen from outside meanwhile."""
    state = results.progress(folder / "out")
    return state is not None and state[0] > EVERY


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Program]:
    """A run of minutes under the launcher, past its first evaluation."""
    file = experiment(tmp_path, pause=0.1, rounds=LONG)
    # A shell may have told its background jobs to ignore SIGINT, and a program inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with Program(WAYS["launcher"](file), tmp_path) as started:
        signal.signal(signal.SIGINT, before)
        wait_for(lambda: evaluated(tmp_path), started)
        yield started


def assert_stopped_halfway(run_folder: Path, status: str) -> None:
    """`run.h5` can be read up to the last evaluation before the end."""
    with results.open_run(run_folder) as file:
        assert file.attrs["status"] == status
        assert np.isnan(file["final/x"][:]).all()
    train, evaluation = columns(run_folder, "train"), columns(run_folder, "eval")
    for rank in range(PEERS):
        assert EVERY < rows_of(train, rank) < LONG
        assert rows_of(evaluation, rank) >= 2
        assert (evaluation["round"][rank, :2] == EVERY).all()
        assert 0 <= evaluation["accuracy"][rank, 1] <= 1


@pytest.mark.thorough
def test_kill_9_of_one_peer(slow: Program, tmp_path: Path) -> None:
    peers, ranks = pids(tmp_path / "out"), descendants(slow.process.pid)
    assert len(set(peers)) == PEERS
    os.kill(peers[1], signal.SIGKILL)
    ended = slow.end(20)
    assert ended.code == 3, ended.stderr
    (told,) = ended.messages()
    assert told.startswith(
        f"p2psim: peer 1 on {socket.gethostname()} was killed by signal 9 (SIGKILL) in phase "
    )
    assert "Traceback" not in ended.stderr
    assert_stopped_halfway(tmp_path / "out", "failed")
    assert wait_until_ended(peers + ranks)


def test_ctrl_c(slow: Program, tmp_path: Path) -> None:
    peers, ranks = pids(tmp_path / "out"), descendants(slow.process.pid)
    assert all(alive(pid) for pid in peers)
    slow.interrupt()
    ended = slow.end(20)
    assert ended.code == 4, ended.stderr
    assert ended.messages() == [
        "p2psim: stopping with a checkpoint; a second signal ends it now",
        "p2psim: stopped; the rows so far are in out; go on with --resume",
    ]
    assert "Traceback" not in ended.stderr
    assert_stopped_halfway(tmp_path / "out", "stopped")
    assert wait_until_ended(ranks)


@pytest.mark.thorough
def test_ctrl_c_twice(slow: Program, tmp_path: Path) -> None:
    """Where the peers do not come to a checkpoint, a second one ends them."""
    ranks = descendants(slow.process.pid)
    stuck = pids(tmp_path / "out")[0]
    os.kill(stuck, signal.SIGSTOP)
    slow.interrupt()
    wait_for(lambda: "second signal" in slow.text(slow.err), slow)
    slow.interrupt()
    ended = slow.end(20)
    assert ended.code == 4, ended.stderr
    assert ended.messages()[1:] == ["p2psim: stopped; the rows so far are in out"]
    assert_stopped_halfway(tmp_path / "out", "stopped")
    assert wait_until_ended(ranks)


@pytest.mark.parametrize("way", ["launcher", "debug"])
def test_ctrl_c_while_the_experiment_is_checked(way: str, tmp_path: Path) -> None:
    file = experiment(tmp_path)
    (tmp_path / "failing.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path(__file__).with_name('checking').touch()\n"
        "time.sleep(30)\n"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with Program(WAYS[way](file), tmp_path) as started:
        signal.signal(signal.SIGINT, before)
        wait_for(lambda: (tmp_path / "checking").exists(), started)
        started.interrupt()
        ended = started.end(20)
    assert ended.code == 4, f"exit code {ended.code}: {ended.stderr}"
    assert ended.stderr == "p2psim: stopped\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_sigterm_to_the_launcher_leaves_no_ranks(slow: Program, tmp_path: Path) -> None:
    """What `kill`, `timeout` and batch systems send: to the launcher alone."""
    ranks = descendants(slow.process.pid)
    slow.process.terminate()
    ended = slow.end(20)
    try:
        assert wait_until_ended(ranks), f"still there: {[pid for pid in ranks if alive(pid)]}"
        assert ended.code == 4, f"exit code {ended.code}: {ended.stderr}"
        assert_stopped_halfway(tmp_path / "out", "stopped")
    finally:
        for pid in filter(alive, ranks):
            os.kill(pid, signal.SIGKILL)


def test_ctrl_c_during_debug(tmp_path: Path) -> None:
    file = experiment(tmp_path, pause=0.1, rounds=LONG)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with Program(WAYS["debug"](file), tmp_path) as started:
        signal.signal(signal.SIGINT, before)
        wait_for(lambda: evaluated(tmp_path), started)
        started.interrupt()
        ended = started.end(20)
    assert ended.code == 4, f"exit code {ended.code}: {ended.stderr}"
    assert "Traceback" not in ended.stderr
    with results.open_run(tmp_path / "out") as file_:
        assert file_.attrs["status"] == "stopped"


def test_a_missing_peer_file_is_nan(tmp_path: Path) -> None:
    ended = by_debug(experiment(tmp_path))
    assert ended.code == 0, ended.stderr
    (tmp_path / "out" / "peers" / f"peer-{VICTIM:05d}.h5").unlink()
    for group, rows in (("train", ROUNDS), ("eval", 2 * (ROUNDS // EVERY + 1))):
        found = columns(tmp_path / "out", group)
        assert [rows_of(found, rank) for rank in range(PEERS)] == [
            0 if rank == VICTIM else rows for rank in range(PEERS)
        ]
    with results.open_run(tmp_path / "out") as file:
        x = file["final/x"][:]
    assert np.isfinite(x).all(axis=1).tolist() == [rank != VICTIM for rank in range(PEERS)]
    assert np.isnan(x[VICTIM]).all()


def test_a_run_folder_can_be_moved(tmp_path: Path) -> None:
    ended = by_debug(experiment(tmp_path))
    assert ended.code == 0, ended.stderr
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").rename(tmp_path / "elsewhere" / "moved")
    found = columns(tmp_path / "elsewhere" / "moved", "train")
    assert [rows_of(found, rank) for rank in range(PEERS)] == [ROUNDS] * PEERS


@pytest.mark.thorough
def test_a_run_can_be_watched_from_before_its_first_moment(tmp_path: Path) -> None:
    """Peers make their files while the progress bar reads; what is not there yet is no error."""
    file = experiment(tmp_path, rounds=100)
    seen = set()
    with Program(WAYS["debug"](file), tmp_path) as started:
        while started.process.poll() is None:
            seen.add(results.progress(tmp_path / "out"))
        assert started.end(1).code == 0
    assert None in seen
    assert {state[1] for state in seen if state} == {100}
