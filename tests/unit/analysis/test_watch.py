"""p2psim watch: runs that go on, end, die or have not begun, seen from another process."""

from __future__ import annotations

import itertools
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from p2psim.analysis import monitor, results
from p2psim.analysis.monitor import Pace
from p2psim.errors import InputError
from p2psim.launcher import run_requests, runner
from tests.support.programs import Program, assert_refused, p2psim, run
from tests.support.runs import EXPERIMENT

PEERS, ROUNDS, LIMIT = 4, 6, 60.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made once."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "small.toml").write_text(EXPERIMENT)
    runner.run(run_requests.requests(folder / "small.toml", (), folder / "whole"), True, None)
    return folder / "whole"


class Stage:
    """A copy of the finished run that goes through its rounds again, as the test says."""

    def __init__(self, whole: Path, folder: Path) -> None:
        self.whole = whole
        self.folder = Path(shutil.copytree(whole, folder))
        self.to(0)

    def to(self, *done: int, status: str = "running", pid: int | None = None) -> None:
        """Every peer (or each) has done so many rounds; `pid` is the process of all."""
        each = done if len(done) == PEERS else done * PEERS
        for rank, rounds in enumerate(each):
            name = f"peers/peer-{rank:05d}.h5"
            with (
                h5py.File(self.whole / name, "r", locking=False) as origin,
                h5py.File(self.folder / name, "r+", locking=False) as file,
            ):
                file.attrs["pid"] = pid or os.getpid()
                self.fill(origin["train"], file["train"], rounds)
                self.fill(origin["eval"], file["eval"], 2 * (rounds // 2))
        with h5py.File(self.folder / "run.h5", "r+", locking=False) as file:
            file.attrs["status"] = status

    @staticmethod
    def fill(origin: Any, group: Any, rows: int) -> None:
        for name, dataset in group.items():
            dataset[:rows] = origin[name][:rows]
            dataset[rows:] = -1 if dataset.dtype.kind == "i" else np.nan

    def fail(self, rank: int, reason: str) -> None:
        """This peer leaves its reason."""
        with h5py.File(self.folder / f"peers/peer-{rank:05d}.h5", "r+", locking=False) as file:
            file.attrs["failure"] = reason


@pytest.fixture
def stage(whole: Path, tmp_path: Path) -> Stage:
    return Stage(whole, tmp_path / "run")


def watching(folder: Path, *arguments: object) -> Program:
    return Program(p2psim("watch", *arguments), folder)


def said(started: Program, fragment: str) -> str:
    """What it has said, as soon as that holds the fragment."""
    end = time.monotonic() + LIMIT
    while fragment not in started.text(started.out):
        assert started.process.poll() is None, started.text(started.err)
        assert time.monotonic() < end, started.text(started.out)
        time.sleep(0.05)
    return started.text(started.out)


# What is read, and how little of it


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_counted_as_if_all_were_read(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    n, rounds = int(rng.integers(1, 9)), int(rng.integers(1, 200))
    low = int(rng.integers(0, rounds + 1))
    done = rng.integers(low, min(rounds, low + seed * 3) + 1, n)
    rows = np.where(np.arange(rounds) < done[:, None], np.arange(1, rounds + 1), -1)
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["train/round"] = rows
        assert results.recorded(file, "train").tolist() == done.tolist()


def test_little_is_read_of_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, rounds, reads = 5, 100_000, []
    part = results.part

    def counted(dataset: Any, *rows: slice) -> Any:
        values = part(dataset, *rows)
        reads.append(values.size)
        return values

    monkeypatch.setattr(results, "part", counted)
    rows = np.where(np.arange(rounds) < 70_000, np.arange(rounds), -1)
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["train/round"] = np.tile(rows, (n, 1))
        assert (results.recorded(file, "train") == 70_000).all()
    assert len(reads) < 50
    assert sum(reads) < n * 100


def test_what_is_seen_is_what_was_recorded(stage: Stage) -> None:
    stage.to(4, 5, 4, 3)
    sight = monitor.look(stage.folder)
    run = results.read(stage.folder)
    assert (sight.state, sight.over, sight.failures) == ("running", False, [])
    assert (sight.least, sight.rounds, sight.behind) == (3, ROUNDS, 2)
    assert sight.done.argmin() == 3
    assert sight.loss == pytest.approx(run.train["loss"][:, 2].mean())
    assert sight.sent == run.train["bytes_sent"][:, 2].sum()
    assert sight.measured["accuracy"] == pytest.approx(run.eval["accuracy"][:, 1].mean())
    seconds = (run.train["wall"][:, 2] - run.train["wall"][:, 1]).mean()
    sent = run.train["bytes_sent"][:, 2].sum() - run.train["bytes_sent"][:, 1].sum()
    assert sight.speed == pytest.approx(1 / seconds)
    assert sight.left == pytest.approx(3 * seconds)
    assert sight.traffic == pytest.approx(sent / seconds)


def test_nothing_is_known_before_the_first_round(stage: Stage) -> None:
    sight = monitor.look(stage.folder)
    assert sight.least == 0
    assert np.isnan([sight.loss, sight.speed, sight.left, sight.sent]).all()
    assert sight.measured == {}


def test_a_follower_sees_that_a_run_was_started_anew(stage: Stage, whole: Path) -> None:
    stage.to(ROUNDS, status="done")
    follower = monitor.RunMonitor(stage.folder)
    assert follower.look()[0].over
    shutil.rmtree(stage.folder)
    with pytest.raises(InputError):
        follower.look()
    Stage(whole, stage.folder).to(1)
    (sight,) = follower.look()
    assert (sight.over, sight.least) == (False, 1)


def test_looking_takes_at_most_a_tenth_of_the_time() -> None:
    pace = Pace(0.01)
    assert pace.due()
    began = time.monotonic()
    with pace.looking():
        time.sleep(0.1)
    took = time.monotonic() - began
    assert not pace.due()
    assert pace.next - began >= 9.9 * took
    pace = Pace(1000)
    with pace.looking():
        pass
    assert pace.next > time.monotonic() + 900


# The command


def test_a_line_per_change_until_it_is_done(stage: Stage, tmp_path: Path) -> None:
    stage.to(2)
    with watching(tmp_path, "run") as started:
        said(started, "rounds 2/6")
        stage.to(3, 4, 4, 4)
        said(started, "slowest peer 0, 1 behind")
        time.sleep(1.5)  # it may have read the files of the peers while they were written
        before = said(started, "slowest peer 0, 1 behind")
        assert "slowest peer 0, 1 behind" in before.splitlines()[-1]
        time.sleep(2.5)  # nothing changes: nothing is said
        assert started.text(started.out) == before
        stage.to(ROUNDS, status="done")
        ended = started.end(LIMIT)
    assert ended.code == 0, ended.stderr
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    states = [line.split(",")[0] for line in lines]
    assert states == ["run: state running"] * (len(lines) - 1) + ["run: state done"]
    assert all(line != following for line, following in itertools.pairwise(lines))
    assert "\x1b" not in ended.stdout
    for fragment in ("rounds 6/6", "training loss", "test accuracy 0.", "sent", "kB", "/s"):
        assert fragment in lines[-1], lines[-1]


def test_a_failed_run_and_why(stage: Stage, tmp_path: Path) -> None:
    stage.to(3)
    with watching(tmp_path, "run/run.h5") as started:
        said(started, "rounds 3/6")
        stage.fail(2, "peer 2 failed on purpose")
        stage.to(3, status="failed")
        ended = started.end(LIMIT)
    assert ended.code == 0, ended.stderr
    assert "run: state failed (rounds 3 of 6)" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "! peer 2 failed on purpose"


def test_a_run_whose_processes_are_gone(stage: Stage, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with watching(tmp_path, "run") as started:
        said(started, "rounds 0/6")
        stage.to(2, pid=gone.pid)
        ended = started.end(LIMIT)
    assert ended.code == 0, ended.stderr
    assert "killed, none of its processes is alive (rounds 2 of 6)" in ended.stdout


def test_ctrl_c_leaves(stage: Stage, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with watching(tmp_path, "run") as started:
        signal.signal(signal.SIGINT, before)
        said(started, "rounds 0/6")
        started.interrupt()
        ended = started.end(LIMIT)
    assert (ended.code, ended.stderr) == (0, "")


def test_a_run_that_begins_later_is_waited_for(whole: Path, tmp_path: Path) -> None:
    with watching(tmp_path, "run", "--wait", LIMIT) as started:
        said(started, "waiting up to 60 s for 'run' to begin")
        shutil.copytree(whole, tmp_path / "made")
        (tmp_path / "made").rename(tmp_path / "run")
        ended = started.end(LIMIT)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("run: state done")
    assert ended.stdout.count("waiting") == 1


@pytest.mark.parametrize(
    ("arguments", "soon"),
    [
        (("no/such", "--wait", 1000), True),
        (("experiment.toml", "--wait", 1000), True),
        (("nothing", "--once"), True),
        (("nothing", "--wait", 1), False),
        ((".", "--wait", 1), False),
    ],
)
def test_what_is_no_run_is_refused(
    arguments: tuple[object, ...], soon: bool, tmp_path: Path
) -> None:
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    ended = run(p2psim("watch", *arguments), tmp_path, LIMIT)
    assert_refused(ended.code, ended.stderr, [f"'{arguments[0]}'", "give a run folder"])
    assert bool(ended.stdout) != soon


def test_a_damaged_run_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.h5").write_bytes(b"no HDF5")
    ended = run(p2psim("watch", "run", "--wait", 1000), tmp_path, LIMIT)
    assert_refused(ended.code, ended.stderr, ["'run/run.h5' cannot be read as a run"])


def test_a_sweep_is_a_line_for_each_run(whole: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    stages = {name: Stage(whole, sweep / name) for name in ("gamma=0.1", "gamma=0.2")}
    stages["gamma=0.1"].to(ROUNDS, status="done")
    ended = run(p2psim("watch", "sweep", "--once"), tmp_path, LIMIT)
    assert ended.code == 0, ended.stderr
    assert [line.split(",")[0] for line in ended.stdout.splitlines()] == [
        "gamma=0.1: state done",
        "gamma=0.2: state running",
    ]
    with watching(tmp_path, "sweep", "--wait", 1000) as started:
        said(started, "gamma=0.2: state running")
        stages["gamma=0.2"].to(ROUNDS, status="done")
        said(started, "gamma=0.2: state done")
        # The next one may still begin; it is noticed.
        Stage(whole, tmp_path / "next").to(1)
        (tmp_path / "next").rename(sweep / "gamma=0.3")
        said(started, "gamma=0.3: state running, rounds 1/6")
        with h5py.File(sweep / "gamma=0.3" / "run.h5", "r+", locking=False) as file:
            file.attrs["status"] = "stopped"
        said(started, "gamma=0.3: state stopped (rounds 1 of 6)")
        for path in sweep.glob("*/run.h5"):
            os.utime(path, (0, 0))  # the last one has ended long ago
        ended = started.end(LIMIT)
    assert ended.code == 0, ended.stderr


@pytest.fixture
def terminal() -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs p2psim with a terminal of 100 columns as its output."""
    master, slave = pty.openpty()

    def call(folder: Path, *arguments: object) -> tuple[int, str]:
        kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        process = subprocess.Popen(
            p2psim(*arguments),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=slave,
            env={**kept, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        )
        os.set_blocking(master, False)
        text, end = b"", time.monotonic() + LIMIT
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
            text += drain(master)
        process.kill()
        return process.wait(), (text + drain(master)).decode()

    yield call
    os.close(master)
    os.close(slave)


def drain(descriptor: int) -> bytes:
    """What can be read at once."""
    try:
        return os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return b""


def test_a_terminal_shows_a_table(
    stage: Stage, tmp_path: Path, terminal: Callable[..., tuple[int, str]]
) -> None:
    stage.to(ROUNDS, status="done")
    code, text = terminal(tmp_path, "watch", "run")
    assert code == 0
    assert "\x1b[" in text
    for label, value in (("state", "done"), ("rounds", "6/6"), ("consensus distance", "0.")):
        assert any(
            line.startswith(label) and value in line for line in text.replace("\r", "").split("\n")
        ), text


def test_a_terminal_shows_a_sweep_as_rows(
    whole: Path, tmp_path: Path, terminal: Callable[..., tuple[int, str]]
) -> None:
    for name, done in (("a=1", ROUNDS), ("a=2", 3)):
        Stage(whole, tmp_path / "sweep" / name).to(done, status="stopped")
    code, text = terminal(tmp_path, "watch", "sweep", "--wait", 0)
    assert code == 0
    rows = [line.split() for line in text.replace("\r", "").split("\n")]
    assert ["a=2", "stopped", "3/6"] in [row[:3] for row in rows], text
