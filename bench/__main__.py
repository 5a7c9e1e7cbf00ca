"""All benchmarks with their bounds: `make bench`; the exit code is 1 if a bound is missed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench import codecs, feedback, int8, step
from p2psim.launcher import ranks

Row = dict[str, Any]


def in_ranks(module: str, n: int, *arguments: str) -> Row:
    """Run a benchmark module on n ranks and return the JSON object that it prints last."""
    mpiexec, flavor = ranks.find_mpiexec()
    options = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
    command = [mpiexec, *(options if flavor == "openmpi" else []), "-n", str(n)]
    result = subprocess.run(
        [*command, sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if result.returncode:
        raise SystemExit(f"{module} on {n} ranks failed:\n{result.stderr}")
    values: Row = json.loads(result.stdout.strip().splitlines()[-1])
    return values


def row(name: str, value: float, bound: str, ok: bool) -> Row:
    """Return one row of the table; `ok` is True if `value` is within `bound`."""
    return {"name": name, "value": value, "bound": bound, "ok": ok}


def exchange() -> list[Row]:
    """(a) Compare ring exchange and mixing of 4 MB with a bare mpi4py loop."""
    rows = []
    for n in (2, 8):
        values = in_ranks("bench.exchange", n)
        name = f"mix 4 MB on a ring of {n}, {values['ours'] * 1e3:.2f} ms / bare mpi4py"
        ok = values["ratio"] <= 1.15 and values["same"]
        rows.append(row(name, values["ratio"], "<= 1.15", ok))
    return rows


def recording() -> list[Row]:
    """(d) Measure the share of recording in the wall time of a quickstart run."""
    values = in_ranks("bench.recording", 8)
    shares = {"recording rows": values["rows"], "recording virtual time": values["schedule"]}
    return [
        row(f"{name} / quickstart run", share, "<= 0.02", share <= 0.02)
        for name, share in shares.items()
    ]


def checkpointing() -> list[Row]:
    """(f) Measure the share of checkpoints every 30 s in the CPU time of 16 large peers."""
    values = in_ranks("bench.checkpointing", 16)
    name = f"{values['saves'] - 1:.0f} checkpoints of {values['ms']:.0f} ms CPU / run"
    ok = values["share"] <= 0.02 and values["saves"] > 2
    return [row(name, values["share"], "<= 0.02", ok)]


def small_model() -> list[Row]:
    """(g) Compare rounds per second of D-PSGD on a ring with a bare loop of mpi4py and torch."""
    rows = []
    for size, n, rounds, bound in (("small", 16, 300, 0.88), ("large", 8, 60, 0.97)):
        values = in_ranks("bench.small_model", n, size, str(rounds))
        name = f"{size} model, ring of {n}: {values['ours']:.0f} / bare {values['bare']:.0f} per s"
        ok = values["ratio"] >= bound
        rows.append(row(name, values["ratio"], f">= {bound}", ok))
    return rows


def scaling() -> list[Row]:
    """(e) Measure CPU time per peer and round on 4 to 48 ranks, with and without gossip."""
    values = {n: in_ranks("bench.scaling", n) for n in (4, 16, 48)}
    rows, ratios = [], []
    for n, ms in values.items():
        ratios.append(ms["d-psgd"] / ms["isolated"])
        rows.append(row(f"CPU ms per peer and round, {n} ranks: gossip", ms["d-psgd"], "", True))
        rows.append(row(f"CPU ms per peer and round, {n} ranks: alone", ms["isolated"], "", True))
        rows.append(row(f"gossip / alone, {n} ranks", ratios[-1], "", True))
    for name in ("d-psgd", "isolated"):
        times = [ms[name] for ms in values.values()]
        rows.append(row(f"{name}: largest / smallest - 1", max(times) / min(times) - 1, "", True))
    spread = max(ratios) / min(ratios) - 1
    rows.append(row("gossip / alone: largest / smallest - 1", spread, "<= 0.25", spread <= 0.25))
    return rows


def main() -> int:
    """Run all benchmarks, print their rows, and return the exit code."""
    rows = []
    parts = (
        *(exchange, step.main, codecs.main, int8.main, feedback.main),
        *(recording, scaling, checkpointing, small_model),
    )
    for part in parts:
        print(f"-- {(part.__doc__ or '').splitlines()[0]}", flush=True)
        for line in part():
            verdict = ("ok" if line["ok"] else "MISSED") if line["bound"] else ""
            print(f"{line['name']:<58}{line['value']:>9.3f}  {line['bound']:<9}{verdict}")
            rows.append(line)
    return int(not all(line["ok"] for line in rows))


if __name__ == "__main__":
    sys.exit(main())
