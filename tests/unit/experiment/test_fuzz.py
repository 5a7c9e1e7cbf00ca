"""Experiment files drawn at random: `plan` accepts or refuses each in a sentence; they run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import invoke

CASES, SEEDS = 250, 40  # 10,000 in all; `make test` draws 250
RUNS = 4  # of the accepted ones of a seed


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=[pytest.mark.thorough] * (seed >= 1)) for seed in range(SEEDS)],
)
def test_files_at_random(seed: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.fuzz", str(CASES), str(seed), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = json.loads(ended.stdout)
    assert counts["accepted"] + counts["refused"] == CASES
    assert min(counts["accepted"], counts["refused"]) > CASES // 10
    accepted = sorted(tmp_path.glob("*.toml"))[:RUNS]
    assert len(accepted) == RUNS
    for file in accepted:
        arguments = ["run", str(file), "--debug", "--out", str(tmp_path / file.stem)]
        ran = invoke(*arguments)
        if ran.exit_code == 2:  # this machine alone can tell
            assert "finds no GPU here" in ran.output
        else:
            assert ran.exit_code == 0, f"{file.read_text()}\n{ran.output}{ran.exception!r}"
