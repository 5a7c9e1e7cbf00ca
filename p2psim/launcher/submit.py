"""Implementation of `p2psim submit`: an experiment as a Slurm job, a sweep as a job array."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p2psim.errors import InputError
from p2psim.launcher import ranks, runner, slurm
from p2psim.launcher.run_requests import Request

MAX_WARNING = 65535  # seconds, the limit of sbatch --signal


@dataclass(frozen=True)
class SlurmRequest:
    """Requested resources of a Slurm job; None leaves the choice to the launch file or the site."""

    nodes: int | None = None
    peers_per_node: int | None = None
    cores_per_node: int | None = None  # None: one per peer
    time: str | None = None  # HH:MM:SS or D-HH:MM:SS
    signal_before: int = 120  # seconds before the time limit


def script(requests: Sequence[Request], resources: SlurmRequest) -> str:
    """Check all combinations as `p2psim run` does; returns the batch script.

    InputError if a combination cannot run or if `resources` are contradictory.
    """
    peers = max([runner.check(combination).peers for combination in requests])
    first, last = requests[0], len(requests) - 1
    log = str(first.base).replace("%", "%%") + (".slurm-%A_%a.log" if last else ".slurm-%j.log")
    options = {
        "job-name": first.table["name"],
        "chdir": Path.cwd(),
        "output": log,
        **size(peers, resources),
        **limit(resources),
        **({"array": f"0-{last}"} if last else {}),
    }
    # With --resume a job that was requeued continues from its last checkpoint.
    run = [sys.executable, "-m", "p2psim", *replace(first, resume=True).arguments()]
    template = (ranks.launch_folder() / "slurm.batch").read_text(encoding="utf-8")
    return slurm.script(template, options, run)


def size(peers: int, resources: SlurmRequest) -> dict[str, int]:
    """Return the options of sbatch for the number of nodes, and of peers or cores on each."""
    nodes, per_node, cores = resources.nodes, resources.peers_per_node, resources.cores_per_node
    for name, value in (("--nodes", nodes), ("--peers-per-node", per_node)):
        if value is not None and not 1 <= value <= peers:
            raise InputError(f"{name} {value}: give a number from 1 to the {peers} peers")
    if cores is not None and cores < 1:
        raise InputError(f"--cores-per-node {cores}: give 1 or more")
    if nodes is None and per_node is None and cores is None:
        return {"ntasks": peers}
    nodes = nodes or math.ceil(peers / (per_node or peers))
    per_node = per_node or math.ceil(peers / nodes)
    if nodes * per_node < peers:
        raise InputError(
            f"--nodes {nodes} with --peers-per-node {per_node} has room for {nodes * per_node} of "
            f"the {peers} peers: give larger numbers, or leave one of the two out"
        )
    # Slurm reserves a core for every task, so peers that share cores must not be declared as tasks.
    return {"nodes": nodes, **({"mincpus": cores} if cores else {"ntasks-per-node": per_node})}


def limit(resources: SlurmRequest) -> dict[str, str]:
    """Return the options of sbatch for the time limit and for the warning signal before it."""
    warning = resources.signal_before
    if not 1 <= warning <= MAX_WARNING:
        raise InputError(f"--signal-before {warning}: give seconds, from 1 to {MAX_WARNING}")
    options = {"signal": f"B:USR1@{warning}"}  # B: only to the batch script, which passes it on
    if resources.time is None:
        return options
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", resources.time)
    if parts is None:
        raise InputError(
            f"--time {resources.time}: give HH:MM:SS or DAYS-HH:MM:SS, such as 02:30:00"
        )
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    if warning >= ((days * 24 + hours) * 60 + minutes) * 60 + seconds:
        raise InputError(
            f"--signal-before {warning}: the warning must come within the time limit of "
            f"{resources.time}; give fewer seconds or a longer --time"
        )
    return {"time": resources.time, **options}


def submit(requests: Sequence[Request], resources: SlurmRequest) -> str:
    """Submit the job; returns the number of the job."""
    text = script(requests, resources)
    # Slurm cannot create the folder of the log: without it the job would fail with no message.
    requests[0].base.parent.mkdir(parents=True, exist_ok=True)
    return slurm.submit(text)
