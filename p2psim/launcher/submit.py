"""What `p2psim submit` does: turn an experiment into a Slurm job, each combination into a task."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p2psim.errors import InputError
from p2psim.launcher import ranks, runner, slurm
from p2psim.launcher.runner import Request

MOST_WARNING = 65535  # seconds, of sbatch --signal


@dataclass(frozen=True)
class SlurmRequest:
    """What a job is to have; None where the launch file or the site decides."""

    nodes: int | None = None
    peers_per_node: int | None = None
    cores_per_node: int | None = None  # None: one for each peer
    time: str | None = None  # HH:MM:SS or D-HH:MM:SS
    signal_before: int = 120  # seconds before the time limit


def script(requests: Sequence[Request], wish: SlurmRequest) -> str:
    """The batch script, once everything is checked as `p2psim run` does; InputError likewise."""
    peers = max([runner.check(request).peers for request in requests])
    first, last = requests[0], len(requests) - 1
    log = str(first.base).replace("%", "%%") + (".slurm-%A_%a.log" if last else ".slurm-%j.log")
    options = {
        "job-name": first.table["name"],
        "chdir": Path.cwd(),
        "output": log,
        **size(peers, wish),
        **limit(wish),
        **({"array": f"0-{last}"} if last else {}),
    }
    # Whatever ends the job, its next start goes on from there.
    run = [sys.executable, "-m", "p2psim", *replace(first, resume=True).arguments()]
    template = (ranks.launch_folder() / "slurm.batch").read_text(encoding="utf-8")
    return slurm.script(template, options, run)


def size(peers: int, wish: SlurmRequest) -> dict[str, int]:
    """How many nodes, and peers or cores on each, as options of sbatch."""
    nodes, per_node, cores = wish.nodes, wish.peers_per_node, wish.cores_per_node
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
            f"the {peers} peers: give more, or leave one of the two out"
        )
    # Slurm gives every task a core of its own: of peers that share cores it is not to know.
    return {"nodes": nodes, **({"mincpus": cores} if cores else {"ntasks-per-node": per_node})}


def limit(wish: SlurmRequest) -> dict[str, str]:
    """The time limit and the warning before it, as options of sbatch."""
    warning = wish.signal_before
    if not 1 <= warning <= MOST_WARNING:
        raise InputError(f"--signal-before {warning}: give seconds, from 1 to {MOST_WARNING}")
    options = {"signal": f"B:USR1@{warning}"}  # B: to the script, which passes it on
    if wish.time is None:
        return options
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", wish.time)
    if parts is None:
        raise InputError(f"--time {wish.time}: give HH:MM:SS or DAYS-HH:MM:SS, such as 02:30:00")
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    if warning >= ((days * 24 + hours) * 60 + minutes) * 60 + seconds:
        raise InputError(
            f"--signal-before {warning}: the warning must come within the time limit of "
            f"{wish.time}; give fewer seconds or a longer --time"
        )
    return {"time": wish.time, **options}


def submit(requests: Sequence[Request], wish: SlurmRequest) -> str:
    """Submit the job; returns its number."""
    text = script(requests, wish)
    # Without a folder for its log the job would die, and nobody would hear why.
    requests[0].base.parent.mkdir(parents=True, exist_ok=True)
    return slurm.submit(text)
