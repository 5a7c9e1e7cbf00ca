"""Plug-ins of a user are tried before a rank starts; failures are refused in one sentence."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from p2psim.experiment import trial
from tests.support.programs import (
    GOOD,
    REMOVED,
    Bench,
    invoke,
    p2psim,
    run,
    with_changes,
    write,
)

MINE = "plug.py:Mine"
ALGORITHM = """import os, time
from p2psim.base import Algorithm
from p2psim.registry import plugin

@plugin("algorithm", "mine")
class Mine(Algorithm):
    def local(self, x, oracle, net):
        {local}

    def consensus(self, x, oracle, net):
        return {consensus}
"""
MODEL = """from p2psim.registry import plugin

@plugin("model", "mine")
class Mine:
    def shapes(self, inputs, outputs):
        return {shapes}

    def build(self, inputs, outputs):
        from torch import nn

        return nn.Sequential({layers})
"""


@pytest.mark.parametrize(
    ("local", "consensus", "message"),
    [
        ("return None", "x", "method 'local': it has returned NoneType, not float32 (610,)"),
        ("return x", "x[:5]", "method 'consensus': it has returned float32 (5,), not float32"),
        ("return x", "x.astype(float)", "it has returned float64 (610,), not float32 (610,)"),
    ],
)
def test_a_phase_that_returns_no_vector_is_refused(
    local: str, consensus: str, message: str, bench: Bench
) -> None:
    (bench.folder / "plug.py").write_text(ALGORITHM.format(local=local, consensus=consensus))
    # Without an optimizer of the user: the algorithm is tried in any case.
    write(bench.folder, with_changes(GOOD, {"algorithm": MINE, "learning": REMOVED}))
    bench.check_refused("algorithm 'plug.py:Mine'", message)


def test_an_algorithm_that_hangs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text(ALGORITHM.format(local="time.sleep(1000)", consensus="x"))
    write(tmp_path, with_changes(GOOD, {"algorithm": MINE, "run.patience": 1.0}))
    for command in ("run", "plan"):
        ended = run(p2psim(command, "experiment.toml"), tmp_path, limit=60)
        assert ended.code == 2, ended.stderr
        (message,) = ended.messages()
        assert re.search(r"no progress for \d s; correct the algorithm", message)
        assert message.endswith(f"({tmp_path / 'plug.py'} line 8)")
    assert not (tmp_path / "runs").exists()


def test_a_trial_does_not_change_the_current_folder(bench: Bench) -> None:
    text = ALGORITHM.format(local="return os.chdir('/') or x", consensus="x")
    (bench.folder / "plug.py").write_text(text)
    write(bench.folder, with_changes(GOOD, {"algorithm": MINE}))
    result = invoke("plan", bench.file)
    assert result.exit_code == 0, result.output
    assert Path.cwd() == bench.folder


def test_a_slow_trial_is_announced(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The note comes once; progress starts the period anew."""
    monkeypatch.setattr(trial, "NOTICE", 0.8)
    with trial.Trial(30.0, "a round", "the algorithm") as block:
        for _ in range(4):
            time.sleep(0.25)
            block.progress()
        assert capfd.readouterr().err == ""
        time.sleep(2.0)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("p2psim: a round is tried before the start, and has made no progress")
    assert line.endswith("the trial ends after 30 s (run.patience)")


@pytest.mark.parametrize(
    ("shapes", "layers", "fragments"),
    [
        (
            "[(10, 64), (10,)]",
            "nn.Flatten(), nn.Linear(64, 10, bias=False)",
            ("[(10, 64)], but `shapes` gives [(10, 64), (10,)]", "agree"),
        ),
        (
            "[(10, 32), (10,)]",
            "nn.Flatten(), nn.Linear(32, 10)",
            (
                "cannot process the samples of data 'digits': RuntimeError",
                "which must take samples of shape (1, 8, 8)",
            ),
        ),
        (
            "[(7, 64), (7,)]",
            "nn.Flatten(), nn.Linear(64, 7)",
            ("shape (64, 7) for 64 samples, but the task 'classification' needs (64, 10)",),
        ),
    ],
    ids=["parameters", "inputs", "outputs"],
)
def test_a_model_that_does_not_fit_is_refused(
    shapes: str, layers: str, fragments: tuple[str, ...], bench: Bench
) -> None:
    (bench.folder / "plug.py").write_text(MODEL.format(shapes=shapes, layers=layers))
    write(bench.folder, with_changes(GOOD, {"model": MINE}))
    call = ("run", bench.file, "--out", "out")
    bench.check_refused("model 'plug.py:Mine'", *fragments, call=call)
