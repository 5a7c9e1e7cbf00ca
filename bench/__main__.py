"""`make bench`: all measurements, each with its bound; ends with 1 where one is missed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench import codecs, int8, step
from p2psim.launcher import ranks

Row = dict[str, Any]


def in_ranks(module: str, n: int) -> Row:
    """The JSON line that a measurement prints when run on n ranks."""
    mpiexec, flavor = ranks.find_mpiexec()
    options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
    command = [mpiexec, *(options if flavor == "openmpi" else []), "-n", str(n)]
    done = subprocess.run(
        [*command, sys.executable, "-m", module], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise SystemExit(f"{module} on {n} ranks failed:\n{done.stderr}")
    found: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def row(name: str, value: float, bound: str, ok: bool) -> Row:
    """One line of the table."""
    return {"name": name, "value": value, "bound": bound, "ok": ok}


def exchange() -> list[Row]:
    """(a) ring exchange and mix of 4 MB against a bare mpi4py loop."""
    rows = []
    for n in (2, 8):
        found = in_ranks("bench.exchange", n)
        name = f"mix 4 MB on a ring of {n}, {found['ours'] * 1e3:.2f} ms / bare mpi4py"
        ok = found["ratio"] <= 1.15 and found["same"]
        rows.append(row(name, found["ratio"], "<= 1.15", ok))
    return rows


def recording() -> list[Row]:
    """(d) what recording costs."""
    found = in_ranks("bench.recording", 8)
    shares = {"recording rows": found["rows"], "recording virtual time": found["schedule"]}
    return [
        row(f"{what} / quickstart run", share, "<= 0.02", share <= 0.02)
        for what, share in shares.items()
    ]


def saving() -> list[Row]:
    """(f) what a checkpoint every 30 s costs 16 peers with 1e6 parameters."""
    found = in_ranks("bench.checkpointing", 16)
    name = f"{found['saves'] - 1:.0f} checkpoints of {found['ms']:.0f} ms CPU / run"
    return [row(name, found["share"], "<= 0.02", found["share"] <= 0.02 and found["saves"] > 2)]


def scaling() -> list[Row]:
    """(e) CPU time per peer and round, and what gossip adds to it, by number of ranks."""
    found = {n: in_ranks("bench.scaling", n) for n in (4, 16, 48)}
    rows, ratios = [], []
    for n, ms in found.items():
        ratios.append(ms["d-psgd"] / ms["isolated"])
        rows.append(row(f"CPU ms per peer and round, {n} ranks: gossip", ms["d-psgd"], "", True))
        rows.append(row(f"CPU ms per peer and round, {n} ranks: alone", ms["isolated"], "", True))
        rows.append(row(f"gossip / alone, {n} ranks", ratios[-1], "", True))
    for name in ("d-psgd", "isolated"):
        every = [ms[name] for ms in found.values()]
        rows.append(row(f"{name}: largest / smallest - 1", max(every) / min(every) - 1, "", True))
    spread = max(ratios) / min(ratios) - 1
    rows.append(row("gossip / alone: largest / smallest - 1", spread, "<= 0.25", spread <= 0.25))
    return rows


def main() -> int:
    """Measure and print."""
    rows = []
    parts = (exchange, step.main, codecs.main, int8.main, recording, scaling, saving)
    for part in parts:
        print(f"-- {(part.__doc__ or '').splitlines()[0]}", flush=True)
        for found in part():
            verdict = ("ok" if found["ok"] else "MISSED") if found["bound"] else ""
            print(f"{found['name']:<58}{found['value']:>9.3f}  {found['bound']:<9}{verdict}")
            rows.append(found)
    return int(not all(found["ok"] for found in rows))


if __name__ == "__main__":
    sys.exit(main())
