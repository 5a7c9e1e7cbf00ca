"""Experiments as jobs of a real Slurm: p2psim submit, and all that can end a job."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from p2psim.analysis import results
from tests.mpi.test_same_bits import VARIANTS
from tests.slurm.jobs import PEERS, ROUNDS, finish, in_flight, slow, submit
from tests.support import runs
from tests.support.programs import Table, assert_refused, p2psim, pids, run, wait_until_ended, write

SMALL: Table = {"name": "small", **VARIANTS["choco-stale-qsgd"], "peers": 4}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the slow experiment gives outside Slurm, in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return runs.run_in_threads(slow(folder), folder).datasets()


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A job with Slurm's shortest time limit, a minute, of which it sleeps most.

    Slurm looks every 30 s: it is warned after 29 s at least, and has 30 s to end.
    """
    folder = tmp_path_factory.mktemp("limited")
    options = ("--time", "00:01:00", "--signal-before", 1, "--nodes", 2)
    return folder, submit(folder, slow(folder), *options)


@pytest.fixture(autouse=True)
def _meanwhile(limited: tuple[Path, str]) -> None:
    """The job with the time limit runs while all other tests do."""


def test_a_job_on_two_nodes_gives_the_bits_of_debug(tmp_path: Path) -> None:
    job = submit(tmp_path, SMALL, "--nodes", 2, "--cores-per-node", 1)
    ended, said = finish(tmp_path, job)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), said
    assert (ended["JobName"], ended["NumNodes"]) == ("small", "2")
    assert "small: done" in said
    here = runs.run_in_threads(SMALL, tmp_path)
    assert runs.read(tmp_path / "out").datasets() == here.datasets()


def test_a_sweep_is_a_job_array(tmp_path: Path) -> None:
    sweep = {"algorithm.gamma": [0.3], "seed": [1, 2]}
    job = submit(tmp_path, {**SMALL, "rounds": 2, "sweep": sweep})
    for task, label in enumerate(["gamma=0.3-seed=1", "gamma=0.3-seed=2"]):
        ended, said = finish(tmp_path, f"{job}_{task}")
        assert ended["JobState"] == "COMPLETED", said
        assert f"small: done   out/{label}" in said
        with results.open_run(tmp_path / "out" / label) as file:
            assert file.attrs["status"] == "done"
            assert file.attrs["seed"] == int(label[-1])


def test_a_warning_ends_in_a_checkpoint_and_a_second_start(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    job = submit(tmp_path, slow(tmp_path))
    in_flight(tmp_path, job)
    subprocess.run(["scancel", "--signal=USR1", "--batch", job], check=True)
    ended, said = finish(tmp_path, job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), said
    assert "p2psim: stopped; the rows so far are in out; go on with --resume" in said
    assert "p2psim: going on after round " in said
    assert runs.read(tmp_path / "out").datasets() == undisturbed


def test_a_job_that_slurm_starts_again_goes_on(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """As after a node's death: all is killed, and what it has left must not be in the way."""
    job = submit(tmp_path, slow(tmp_path))
    in_flight(tmp_path, job)
    subprocess.run(["scontrol", "requeue", job], check=True)
    ended, said = finish(tmp_path, job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), said
    assert runs.read(tmp_path / "out").datasets() == undisturbed


def test_a_cancelled_job_ends_and_does_not_come_back(tmp_path: Path) -> None:
    job = submit(tmp_path, slow(tmp_path))
    in_flight(tmp_path, job)
    ranks = pids(tmp_path / "out")
    subprocess.run(["scancel", job], check=True)
    ended, said = finish(tmp_path, job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0"), said
    assert len(ranks) == PEERS
    assert wait_until_ended(ranks, 60)
    done, _, _ = results.progress(tmp_path / "out") or (0, 0, 0.0)
    assert 5 <= done < ROUNDS


def test_an_exception_in_a_peer_is_told_in_the_log(tmp_path: Path) -> None:
    job = submit(tmp_path, slow(tmp_path, fails=True), "--nodes", 2)
    ended, said = finish(tmp_path, job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "3:0", "0"), said
    told = f"p2psim: peer 1 on {socket.gethostname()} failed in phase 'local' of round 6: "
    assert told + "ArithmeticError: the cause (" in said
    assert "Traceback" not in said


def test_a_killed_peer_ends_the_job(tmp_path: Path) -> None:
    """By itself Slurm lets the others wait for it for ever."""
    job = submit(tmp_path, slow(tmp_path))
    in_flight(tmp_path, job)
    ranks = pids(tmp_path / "out")
    os.kill(ranks[2], signal.SIGKILL)
    ended, said = finish(tmp_path, job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "3:0", "0"), said
    assert f"p2psim: peer 2 on {socket.gethostname()} was killed by signal 9" in said
    assert wait_until_ended(ranks, 60)


def test_the_time_limit_ends_in_a_checkpoint_and_a_second_start(
    limited: tuple[Path, str], undisturbed: dict[str, bytes]
) -> None:
    """Slurm itself gives the warning."""
    ended, said = finish(*limited)
    assert ended["JobState"] == "COMPLETED", said
    assert int(ended["Restarts"]) >= 1
    assert "go on with --resume" in said
    assert "p2psim: going on after round " in said
    assert runs.read(limited[0] / "out").datasets() == undisturbed


def test_what_slurm_does_not_take_is_a_mistake(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL)
    ended = run(p2psim("submit", file, "--nodes", 4), tmp_path)
    assert_refused(ended.code, ended.stderr, ["sbatch rejects the job", "Node count"])


def test_a_node_that_goes_down(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """The last of the tests, since it ends all that runs there."""
    job = submit(tmp_path, slow(tmp_path), "--nodes", 2)
    in_flight(tmp_path, job)
    for state in ("DOWN", "RESUME"):
        update = ["scontrol", "update", "NodeName=n2", f"State={state}", "Reason=test"]
        subprocess.run(update, check=True)
    ended, said = finish(tmp_path, job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), said
    assert runs.read(tmp_path / "out").datasets() == undisturbed
