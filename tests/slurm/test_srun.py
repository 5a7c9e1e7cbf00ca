"""Ranks that srun starts, by hand and for `p2psim run` inside an allocation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2psim.launcher import slurm
from tests.mpi.test_same_bits import VARIANTS
from tests.slurm.cluster import environment, processes
from tests.slurm.jobs import wait
from tests.support import runs
from tests.support.programs import Table, assert_refused, p2psim, run, wait_until_ended, write

PEERS = 4
SMALL: Table = {"name": "small", **VARIANTS["choco-fresh-top-k"], "peers": PEERS}
JOINED = "pmi2"  # what MPICH needs


def srun(nodes: int, *options: str) -> list[str]:
    """`srun ... p2psim run`, the peers evenly on these nodes."""
    tasks = ["-N", str(nodes), "-n", str(PEERS), "--ntasks-per-node", str(PEERS // nodes)]
    return ["srun", f"--mpi={JOINED}", *tasks, *options, *p2psim("run", "experiment.toml")]


WAYS = {
    "mpiexec": p2psim("run", "experiment.toml"),
    "srun-one-node": srun(1),
    "srun-two-nodes": srun(2),
    "salloc-two-nodes": ["salloc", "-N", "2", "-n", "2", *p2psim("run", "experiment.toml")],
}


@pytest.fixture(scope="module")
def debugged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What all peers as threads give."""
    return runs.run_in_threads(SMALL, tmp_path_factory.mktemp("debug")).datasets()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_bits_of_debug(
    way: str, debugged: dict[str, bytes], tmp_path: Path
) -> None:
    write(tmp_path, SMALL)
    ended = run([*WAYS[way], "--out", "out"], tmp_path)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.count("small: done") == 1
    assert "no fork server" not in ended.stderr
    assert runs.read(tmp_path / "out").datasets() == debugged


def test_ranks_that_nothing_joins_are_refused(tmp_path: Path) -> None:
    """Each would believe that it is the only one."""
    write(tmp_path, SMALL)
    command = ["srun", "--mpi=none", "-n", str(PEERS), *p2psim("run", "experiment.toml")]
    ended = run(command, tmp_path)
    said = [line for line in ended.stderr.splitlines() if not line.startswith("srun: ")]
    assert_refused(ended.code, "\n".join(said), ["4 ranks", "alone", "srun --mpi=pmi2"])
    assert not (tmp_path / "runs").exists()


def test_a_shell_on_a_node_is_no_rank(tmp_path: Path) -> None:
    """`srun --pty bash` has PMI_RANK and SLURM_PROCID, both 0; p2psim starts the ranks there."""
    write(tmp_path, {**SMALL, "rounds": 2})
    shell = ["srun", f"--mpi={JOINED}", "-n", "1", "sh", "-c", '"$@"', "sh"]
    ended = run([*shell, *p2psim("run", "experiment.toml")], tmp_path)
    assert ended.code == 0, ended.stderr
    assert "small: done" in ended.stdout


def test_what_joins_ranks_is_found_by_trying(tmp_path: Path) -> None:
    code = "from p2psim.launcher import ranks; print(ranks.find_launcher().environment)"
    ended = run(["salloc", "-n", "1", sys.executable, "-c", code], tmp_path)
    assert ended.code == 0, ended.stderr
    assert ended.stdout == f"{{'P2PSIM_PMI': '{JOINED}'}}\n"
    assert JOINED in slurm.flavors()
    assert "none" not in slurm.flavors()


def test_the_cluster_goes_with_its_starter(tmp_path: Path) -> None:
    """However that ends: its daemons, its jobs, all."""
    starter = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=-1).wait()"
    cluster = [sys.executable, "-m", "tests.slurm.cluster", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", starter, *cluster], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        job = ["sbatch", "--ntasks=2", "--wrap", "touch begun; srun sleep 1000"]
        own = environment(tmp_path, os.environ)
        subprocess.run(job, check=True, env=own, cwd=tmp_path, stdout=subprocess.DEVNULL)
        wait(lambda: (tmp_path / "begun").exists(), lambda: "the job has not begun")
        begun = processes(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
    # munged, slurmctld, two slurmd, the script, srun, two tasks; slurmstepd has a bare environment
    assert len(begun) >= 5
    assert wait_until_ended(begun, 60)
    assert not processes(tmp_path)
