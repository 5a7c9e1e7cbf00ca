"""Reproduction of a toy paper: runs, pictures, claims, report, resuming and failures."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import experiments
from experiments.harness import reproduce, sweeps
from p2psim.analysis import results
from p2psim.simulation import run_file

FIGURES = """
from experiments.harness.reproduce import Claim, Figure

TITLE = "A toy"

def draw(figure, runs):
    figure.subplots().plot(runs["slow"][0].eval["accuracy"][0])

def claims(runs):
    slow, fast = (runs[case][1].eval["accuracy"].max() for case in ("slow", "fast"))
    return [
        Claim("two seeds each", "2", str(len(runs["slow"])), len(runs["slow"]) == 2),
        Claim("fast | slow", "better", f"{fast:.2f}", bool(fast > slow)),
    ]

FIGURES = {
    "digits": [
        Figure("one", "the first", "one.toml", draw, claims, (3, 2)),
        Figure(
            "two",
            "alike",
            "two.toml",
            draw,
            claims,
            shared={"slow": ("one", "slow")},
            debug=True,
            table=lambda runs: [["case", "seeds"], *([c, str(len(r))] for c, r in runs.items())],
        ),
    ],
    "mnist": [Figure("other", "needs MNIST", "other.toml", draw, claims)],
}
"""
ONE = """
peers = 2
rounds = ROUNDS
data = { name = "digits", batch_size = 16 }
model = { name = "mlp", hidden = [8] }
topology = "complete"
algorithm = "d-psgd"
run = { checkpoint_rounds = 5, join = 0 }
learning = { optimizer = { name = "sgd" } }
[eval]
every = 10
[sweep]
seed = [1, 2]
[sweep.case.slow]
"learning.optimizer.lr" = 1e-6
[sweep.case.fast]
"learning.optimizer.lr" = 0.5
"""
TWO = ONE.partition("[sweep.case.slow]")[0] + ONE[ONE.index("[sweep.case.fast]") :]
START = """
import sys
import experiments
from experiments.harness import reproduce
experiments.__path__ = [sys.argv.pop(1)]
sys.exit(reproduce.main(["toy", "--out", "out"]))
"""


def set_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the toy paper into the package experiments.toy below `place` and change to `place`."""
    toy = place / "experiments" / "toy"
    toy.mkdir(parents=True)
    (toy / "figures.py").write_text(FIGURES)
    (toy / "one.toml").write_text(ONE.replace("ROUNDS", "20"))
    (toy / "two.toml").write_text(TWO.replace("ROUNDS", "20"))
    (toy / "other.toml").write_text(ONE.replace("ROUNDS", "20").replace("digits", "mnist"))
    monkeypatch.setattr(experiments, "__path__", [str(place / "experiments")])
    for name in ("experiments.toy", "experiments.toy.figures"):  # the toy of an earlier test
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("P2PSIM_DATA", str(place / "nothing"))
    monkeypatch.chdir(place)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the toy paper and without runs."""
    set_up(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the results of `reproduce toy` and its output in the file "stdout"."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as monkeypatch, io.StringIO() as stdout:
        set_up(folder, monkeypatch)
        with contextlib.redirect_stdout(stdout):
            assert reproduce.main(["toy", "--out", "out"]) == 0
        (folder / "stdout").write_text(stdout.getvalue())
    return folder


@pytest.fixture
def again(first: Path, place: Path) -> Path:
    """Return a folder with a copy of the results of `first`."""
    shutil.copytree(first / "out", place / "out")
    return place


def test_a_paper_is_run_drawn_checked_and_written_up(first: Path) -> None:
    assert "holds: one: fast | slow" in (first / "stdout").read_text()
    text = (first / "out/report.md").read_text()
    assert "All claims hold." in text
    assert "| one | two seeds each | 2 | 2 | holds |" in text
    assert "    p2psim run experiments/toy/one.toml --out out/one\n" in text
    assert "    p2psim run experiments/toy/two.toml --out out/two --debug\n" in text
    assert "| case | seeds |\n| --- | --- |\n| fast | 2 |\n| slow | 2 |\n" in text
    assert "4 runs of 2 peers, d = 610; " in text
    assert "2 runs of 2 peers, d = 610; slow is slow of one; " in text
    assert not (first / "out/two/seed=1-slow").exists()
    page = (first / "out/report.html").read_text()
    assert page.count("<td>holds</td>") == 4
    assert 'src="one.png"' in page
    assert (first / "out/one.png").stat().st_size > 1000


def test_complete_runs_are_not_run_again_and_keep_their_costs(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "Started", lambda *_: pytest.fail("it runs again"))
    cost = sweeps.costs(again / "out/one")
    assert cost["wall"] > 0.1
    assert 0.02 < cost["memory"] < 20
    assert reproduce.main(["toy", "--out", "out"]) == 0
    assert sweeps.costs(again / "out/one") == cost


def test_a_claim_that_fails_is_reported(again: Path, capfd: pytest.CaptureFixture[str]) -> None:
    toy = again / "experiments/toy/figures.py"
    toy.write_text(toy.read_text().replace("fast > slow", "fast < slow"))
    assert reproduce.main(["toy", "--out", "out"]) == 1
    assert "FAILS: one: fast | slow" in capfd.readouterr().out
    text = (again / "out/report.md").read_text()
    assert "**2 of 4 claims do not hold.**" in text
    assert "**does not hold** |" in text
    assert "<strong>does not hold</strong>" in (again / "out/report.html").read_text()


@pytest.mark.thorough
def test_killed_runs_are_resumed(place: Path) -> None:
    (place / "experiments/toy/one.toml").write_text(ONE.replace("ROUNDS", "300"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", START, str(place / "experiments")]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        second = place / "out/one/seed=1-fast"
        end = time.monotonic() + 120
        while not (second / "checkpoints").is_dir() and time.monotonic() < end:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    first = (place / "out/one/seed=1-slow/run.h5").stat().st_mtime_ns
    assert run_file.status(second) != "done"  # ranks that outlive the launcher stop by themselves
    assert not (place / "out/report.md").exists()
    assert subprocess.run(command, env=environment, timeout=200).returncode == 0
    assert (place / "out/one/seed=1-slow/run.h5").stat().st_mtime_ns == first
    assert results.read(second).state == "done"
    assert "All claims hold." in (place / "out/report.md").read_text()


def test_missing_data_are_reported_before_the_first_run(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert reproduce.main(["toy", "--data", "mnist", "--out", "out"]) == 2
    message = capfd.readouterr().err
    assert "p2psim data fetch mnist" in message
    assert "DATA=digits" in message
    assert not (place / "out").exists()
    with pytest.raises(SystemExit) as ended:
        reproduce.main(["toy", "--data", "cifar10", "--out", "out"])
    assert ended.value.code == 2
    assert "give one of digits, mnist" in capfd.readouterr().err


def test_runs_of_another_experiment_are_refused(
    again: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (again / "experiments/toy/one.toml").write_text(ONE.replace("ROUNDS", "10"))
    assert reproduce.main(["toy", "--out", "out"]) == 2
    message = capfd.readouterr().err
    assert "rounds was 20 and is 10" in message
    assert "(here: remove 'out/one/seed=1-slow')" in message
    assert "DATA=" not in message


def test_runs_with_lost_rows_are_refused(again: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (again / "out/one/seed=2-fast/peers/peer-00001.h5").unlink()
    assert reproduce.main(["toy", "--out", "out"]) == 2
    assert "the run in 'out/one/seed=2-fast' has lost rows of peers [1]" in capfd.readouterr().err


def test_an_old_report_is_removed_before_new_runs(
    again: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    shutil.rmtree(again / "out/two")
    monkeypatch.setattr(reproduce, "run_all", stopped)
    assert reproduce.main(["toy", "--out", "out"]) == 4
    assert "the same command resumes the runs" in capfd.readouterr().err
    assert not (again / "out/report.md").exists()
    assert not (again / "out/report.html").exists()


def test_every_paper_has_figures_whose_experiments_can_be_checked() -> None:
    assert reproduce.papers() == ["dfa", "lgc", "low-precision", "p2pl-affinity"]
    for name in reproduce.papers():
        paper = importlib.import_module(f"experiments.{reproduce.package(name)}.figures")
        folder = Path(paper.__file__ or "").parent
        for data, figures in paper.FIGURES.items():
            assert figures
            for figure in figures:
                assert (folder / figure.file).is_file()
                if data == "digits":
                    reproduce.is_incomplete(folder / figure.file, Path("nowhere"))
