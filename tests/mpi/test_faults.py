"""Sudden deaths at random moments: the run ends soon, names the peer, leaves nothing, goes on.

`make test-faults` kills FAULTS = 50 peers; by default one.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2psim.analysis import results
from p2psim.simulation import checkpoint
from tests.support.programs import (
    Program,
    Table,
    invoke,
    made_once,
    p2psim,
    run,
    wait_for_rounds,
    wait_until_ended,
    write,
)
from tests.support.runs import Run, read
from tests.support.thorough import THOROUGH, thorough

PEERS, ROUNDS, EVERY = 8, 70, 20  # a checkpoint every so many rounds
FAULTS = int(os.environ.get("FAULTS", "1"))
# How the command lines of these begin.
STUB, SERVER, MPIEXEC = r"\S+ -I -S", r"\S+ -m p2psim forkserver", r"\S*(mpiexec|prterun)"
SOON = 5.0  # seconds from a death to the end of the run
PAUSE = 0.02  # seconds of a round at least
PACED = f"""
import sys, time
from p2psim.algorithms.choco_sgd import ChocoSGD
from p2psim.registry import plugin

@plugin("algorithm", "paced")
class Paced(ChocoSGD):
    def local(self, x, oracle, net):
        mpi = sys.modules.get("mpi4py.MPI")
        if mpi and mpi.Is_initialized():  # threads, which run one at a time, need no pause
            time.sleep({PAUSE})
        return super().local(x, oracle, net)
"""
EXPERIMENT: Table = {
    "peers": PEERS,
    "rounds": ROUNDS,
    "data": {"name": "digits", "partition": {"name": "skew", "s": 0.8}, "batch_size": 16},
    "model": {"name": "mlp", "hidden": [16]},
    "learning": {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
    "algorithm": {
        "name": "paced.py:Paced",
        "gamma": 0.3,
        "variant": "stale",
        "compressor": {"name": "random-k", "keep": 0.2},
    },
    "topology": "ring",
    "eval": {"every": 7},
    "run": {"checkpoint_rounds": EVERY},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experiment, and a run of it that nothing has disturbed."""
    return made_once(tmp_path_factory, "faults", run_undisturbed)


def run_undisturbed(folder: Path) -> None:
    """Run the whole experiment in this folder, by threads."""
    (folder / "paced.py").write_text(PACED)
    file = write(folder, EXPERIMENT)
    ended = invoke("run", file, "--out", folder / "whole", "--debug")
    assert ended.exit_code == 0, ended.output


@pytest.fixture(scope="module")
def whole(place: Path) -> Run:
    """What that run left."""
    return read(place / "whole")


def command(out: str | Path, *options: object) -> list[str]:
    """The experiment by the launcher."""
    return p2psim("run", "experiment.toml", "--out", out, *options)


class Family:
    """The processes of a run: the launcher, mpiexec and what it starts, fork server and ranks."""

    def __init__(self, started: Program) -> None:
        self.launcher = started.process.pid
        self.home = Path(f"/tmp/p2psim-{os.geteuid()}-{self.launcher}-")
        end = time.monotonic() + 60
        while len(self.ranks()) < PEERS:
            assert started.process.poll() is None, started.text(started.err)
            assert time.monotonic() < end, started.text(started.err)
            time.sleep(0.1)
        self.memory: set[Path] = set()

    def note(self) -> None:
        """Remember what must not be left."""
        self.everyone = self.members()
        for pid in self.everyone:
            with contextlib.suppress(OSError):
                maps = Path(f"/proc/{pid}/maps").read_text()
                found = re.findall(r"/dev/shm/(?:mpich_shm|sm_segment)\S+", maps)
                self.memory.update(map(Path, found))

    def members(self) -> dict[int, str]:
        """Command lines by pid of all that belongs to the run."""
        marks = (str(self.home).encode(), b"--out")
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes()
                launched = f"P2PSIM_LAUNCHED={self.launcher}-".encode()
                if marks[0] in line or launched in (folder / "environ").read_bytes():
                    found[int(folder.name)] = line.replace(b"\0", b" ").decode()
        return found

    def ranks(self) -> dict[int, int]:
        """Pid of every rank that the fork server has made."""
        made = {}
        for pid in self.members():
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name.startswith("p2psim:"):
                    made[int(name.partition(":")[2])] = pid
        return made

    def one(self, mark: str) -> int:
        """The first process with such a command line that is no rank."""
        ranks, members = self.ranks().values(), self.members().items()
        found = [pid for pid, line in members if re.match(mark, line) and pid not in ranks]
        return min(found)

    def assert_gone(self) -> None:
        """Nothing is left: processes, folders, shared memory."""
        assert wait_until_ended(list(self.everyone)), self.members()
        end = time.monotonic() + 10
        while left := list(self.home.parent.glob(f"{self.home.name}*")):
            assert time.monotonic() < end, left
            time.sleep(0.1)
        assert not [path for path in self.memory if path.exists()]


@contextlib.contextmanager
def running(
    place: Path, out: str, line: list[str] | None = None
) -> Iterator[tuple[Program, Family]]:
    """A run whose ranks are all there; whoever uses it ends it."""
    before = descriptions()
    with Program(line or command(out), place) as started:
        family = Family(started)
        yield started, family
    family.assert_gone()
    # Two launchers that end at the same moment each keep the other's files: `make test-faults`
    # runs one test at a time.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        assert descriptions() <= before


def descriptions() -> set[Path]:
    """What MPICH's proxies write about the machine."""
    return set(Path("/tmp").glob("hydra_hwloc_xmlfile_*"))


def assert_goes_on(place: Path, out: str, whole: Run, by_ranks: bool = THOROUGH) -> None:
    """The run can be read, and resumed with the same bits by ranks or by threads."""
    if (place / out / "run.h5").exists():
        assert results.read(place / out).attributes["status"] != "done"
    if by_ranks:
        ended = run(command(out, "--resume"), place)
        assert ended.code == 0, ended.stderr
    else:
        arguments = ("run", place / "experiment.toml", "--out", place / out)
        resumed = invoke(*arguments, "--resume", "--debug")
        assert resumed.exit_code == 0, resumed.output
    here, there = read(place / out).datasets(), whole.datasets()
    assert [name for name in here if here[name] != there[name]] == []
    assert not (place / out / "checkpoints").exists()


@pytest.mark.parametrize("seed", range(FAULTS))
def test_kill_9_of_a_peer_at_any_moment(seed: int, place: Path, whole: Run) -> None:
    draw, out = random.Random(seed), f"kill-{seed}"
    # From the fork of the ranks, over their start, until the last round at the earliest.
    victim, delay = draw.randrange(PEERS), draw.uniform(0.0, PAUSE * ROUNDS)
    with running(place, out) as (started, family):
        pid = family.ranks()[victim]
        time.sleep(delay)
        family.note()
        os.kill(pid, signal.SIGKILL)
        killed = time.time()
        ended = started.end(30)
    assert ended.code == 3, ended.stderr
    assert f"peer {victim} on" in ended.stderr
    assert "was killed by signal 9" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.at - killed < SOON
    assert_goes_on(place, out, whole, by_ranks=True)


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        thorough(STUB, "was killed because mpiexec, or the rank's stub under it, has ended"),
        (SERVER, "the fork server of this node was killed"),
        thorough(MPIEXEC, "mpiexec was killed by signal 9"),
    ],
    ids=["stub", "server", "mpiexec"],
)
def test_kill_9_of_what_holds_a_run_together(mark: str, told: str, place: Path, whole: Run) -> None:
    out = f"without-{mark[-4:-1]}"
    with running(place, out) as (started, family):
        wait_for_rounds(place / out, started, EVERY + 5)  # past its first checkpoint
        family.note()
        os.kill(family.one(mark), signal.SIGKILL)
        killed = time.time()
        ended = started.end(30)
    assert ended.code == 3, ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.at - killed < SOON
    assert_goes_on(place, out, whole)


def test_kill_9_of_the_launcher(place: Path, whole: Run) -> None:
    out = "kill-launcher"
    with running(place, out) as (started, family):
        wait_for_rounds(place / out, started, EVERY + 5)  # past its first checkpoint
        family.note()
        started.process.kill()
        started.end(30)
    assert_goes_on(place, out, whole)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *map(thorough, (signal.SIGUSR1, signal.SIGHUP)),
    ],
)
def test_a_signal_to_the_launcher_stops_with_a_checkpoint(
    number: signal.Signals, place: Path, whole: Run
) -> None:
    out = f"stop-{number}"
    with running(place, out) as (started, family):
        wait_for_rounds(place / out, started, 3)
        family.note()
        started.process.send_signal(number)
        ended = started.end(30)
    assert ended.code == 4, ended.stderr
    assert ended.messages()[-1].endswith(f"the rows so far are in {out}; go on with --resume")
    assert len(checkpoint.rounds(place / out)) == 1
    assert results.read(place / out).attributes["status"] == "stopped"
    assert_goes_on(place, out, whole)


def test_a_peer_that_hangs_is_named(place: Path, whole: Run) -> None:
    """All peers wait in the end, for it or for peers that wait for it."""
    out, patience = "hang", 4
    line = command(out, "--set", f"run.patience={patience}")
    with running(place, out, line) as (started, family):
        wait_for_rounds(place / out, started, EVERY + 5)  # past its first checkpoint
        family.note()
        os.kill(family.ranks()[3], signal.SIGSTOP)
        stopped = time.time()
        ended = started.end(60)
    assert ended.code == 3, ended.stderr
    (told,) = ended.messages()
    assert re.match(r"p2psim: peer 3 on \S+ hangs: in phase '[\w ]+' of round \d+ for \d+ s", told)
    wait = r"peer (\d) has waited for ([\d, ]+) for \d+ s \([\w ]+, round \d+\)"
    waiting = re.findall(wait, told)
    assert [int(rank) for rank, _ in waiting] == [rank for rank in range(PEERS) if rank != 3]
    assert any("3" in others for _, others in waiting)
    assert patience <= ended.at - stopped < 5 * patience + SOON
    assert_goes_on(place, out, whole)


@pytest.mark.parametrize(
    ("to", "number"), [thorough("rank", signal.SIGINT), ("all", signal.SIGTERM)]
)
def test_a_signal_to_ranks_stops_all(
    to: str, number: signal.Signals, place: Path, whole: Run
) -> None:
    """What Slurm sends to the processes of a step before its time is over, also to the server."""
    out = f"stop-{to}-{number}"
    with running(place, out) as (started, family):
        wait_for_rounds(place / out, started, 3)
        family.note()
        everybody = [*family.ranks().values(), family.one(STUB), family.one(SERVER)]
        for pid in everybody if to == "all" else [family.ranks()[5]]:
            os.kill(pid, number)
        ended = started.end(30)
    assert ended.code == 4, ended.stderr
    assert_goes_on(place, out, whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
@pytest.mark.parametrize(
    ("room", "at", "way"),
    [
        ("100k", "start", []),
        thorough("520k", "checkpoint", []),
        ("520k", "checkpoint", ["--debug"]),
    ],
)
def test_a_full_disk(room: str, at: str, way: list[str], place: Path, whole: Run) -> None:
    disk = place / f"disk-{at}{len(way)}"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "none", disk], check=True)
    try:
        ended = run(command(disk / "out", *way), place)
        assert ended.code == 3, ended.stderr
        assert any("peer" in x and "No space left on device" in x for x in ended.messages())
        if at == "checkpoint":  # at the start there may not even be a file of the peer
            shown = run(p2psim("show", disk / "out"), place).stdout
            assert "experiment: failed (rounds " in shown
            assert re.search("! peers? .*No space left on device", shown)
        assert "Traceback" not in ended.stderr
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        assert_goes_on(place, str(disk / "out"), whole)
    finally:
        subprocess.run(["umount", disk], check=True)
