"""Cost of bringing peers to their first barrier, plain and forked: `make bench-start`.

CPU time and memory are sums over all processes of a run: launcher, mpiexec, stubs, server, ranks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import tomli_w

from p2psim.launcher.processes import cpu, members, memory

PEERS, REPEATS = 100, 3
MANY, TIMES = 64, 20  # peers and starts of the test for processes that are left over
CPU_BOUND, MEMORY_BOUND = 25.0, 2.5  # seconds, GB
PLAIN_CPU = 200.0  # seconds; if a plain start takes less, the comparison means nothing
LIMIT = 900.0  # seconds of a start
PLUGINS = Path(__file__).with_name("startup_plugins.py")


class Start(NamedTuple):
    """Cost of a start until all peers have passed the barrier, and the end of the run."""

    wall: float  # seconds
    cpu: float  # seconds
    memory: float  # GB
    code: int  # exit code of the run
    left: list[str]  # processes and folders that outlived the run


def experiment(folder: Path, peers: int) -> None:
    """Write the experiment and its plug-ins into a folder: the 2NN of McMahan et al. 2017."""
    shutil.copy(PLUGINS, folder / "plugins.py")
    table = {
        "peers": peers,
        "rounds": 1,
        "data": {"name": "plugins.py:Blank", "batch_size": 10},
        "model": {"name": "mlp", "hidden": [200, 200]},
        "algorithm": "plugins.py:Arrived",
        "topology": "ring",
    }
    (folder / "experiment.toml").write_text(tomli_w.dumps(table))


def start(peers: int, mode: str) -> Start:
    """Start a run, measure it while all peers wait behind the barrier, and let it end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment(folder, peers)
        environment = {**os.environ, "P2PSIM_START": mode}
        began = time.monotonic()
        command = [sys.executable, "-m", "p2psim", "run", "experiment.toml", "--out", "out"]
        run = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while len(list(folder.glob("arrived-*"))) < peers:
            if run.poll() is not None or time.monotonic() - began > LIMIT:
                run.kill()
                raise SystemExit(f"{mode} start of {peers} failed: {run.communicate()[1].decode()}")
            time.sleep(0.1)
        wall, pids = time.monotonic() - began, members(run.pid)
        cpu_sum, memory_sum = sum(map(cpu, pids)), sum(map(memory, pids))
        (folder / "go").touch()  # all peers wait for this file, see startup_plugins.py
        run.communicate(timeout=LIMIT)
        return Start(wall, cpu_sum, memory_sum, run.returncode, leftovers(run.pid, pids))


def leftovers(launcher: int, pids: list[int], limit: float = 5.0) -> list[str]:
    """Return the processes and folders of a run that remain `limit` seconds after its end."""
    end = time.monotonic() + limit
    while True:
        left = [f"process {pid}" for pid in pids if Path(f"/proc/{pid}").exists()]
        left += map(str, Path("/tmp").glob(f"p2psim-{os.geteuid()}-{launcher}-*"))
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


def main() -> int:
    """Measure and print; return 1 if a bound is missed."""
    ok = True
    starts: dict[str, list[Start]] = {"forkserver": [], "plain": []}
    for _ in range(REPEATS):
        for mode in starts:
            measured = start(PEERS, mode)
            starts[mode].append(measured)
            ok &= measured.code == 0 and not measured.left
            print(
                f"{PEERS} peers, {mode:<10}  {measured.wall:6.1f} s  {measured.cpu:6.1f} s CPU  "
                f"{measured.memory:5.2f} GB  exit code {measured.code}  "
                f"left: {measured.left or 'nothing'}",
                flush=True,
            )
    forked, plain = starts["forkserver"], starts["plain"]
    ratio = median(one.cpu for one in plain) / median(one.cpu for one in forked)
    ok &= max(one.cpu for one in forked) <= CPU_BOUND and min(one.cpu for one in plain) > PLAIN_CPU
    ok &= max(one.memory for one in forked) <= MEMORY_BOUND
    bounds = f"<= {CPU_BOUND:g} s CPU, <= {MEMORY_BOUND:g} GB; plain > {PLAIN_CPU:g} s CPU"
    print(f"plain / forked: {ratio:.1f} x the CPU time ({bounds})")
    clean = [one for one in (start(MANY, "forkserver") for _ in range(TIMES)) if one.code == 0]
    clean = [one for one in clean if not one.left]
    ok &= len(clean) == TIMES
    print(f"{len(clean)} of {TIMES} starts of {MANY} peers clean")
    print("ok" if ok else "MISSED")
    return int(not ok)


if __name__ == "__main__":
    sys.exit(main())
