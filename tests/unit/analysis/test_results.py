"""Reading runs in every state, summaries, comparisons and joining, on real runs of a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from p2psim.analysis import monitor, results, tables
from p2psim.analysis.join import join_run
from p2psim.cli import main
from p2psim.errors import InputError, PeerError
from p2psim.simulation import join
from tests.support.runs import EXPERIMENT
from tests.unit.analysis.conftest import Make, datasets

TIMED = ["algorithm=d-psgd", 'time.compute={name="constant"}', "time.link.latency=0.5"]
REFEREE = ["data={name='quadratic',file='problem.npz'}", "model=vector"]
BAD = """
from p2psim.base import Algorithm
from p2psim.registry import plugin

@plugin("algorithm", "bad")
class Bad(Algorithm):
    def consensus(self, x, oracle, net):
        self.calls = getattr(self, "calls", 0) + 1
        if net.rank == 2 and self.calls == 4:
            raise RuntimeError("on purpose")
        return net.mix(x)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.toml").write_text(EXPERIMENT)
    (folder / "bad.py").write_text(BAD)
    rng = np.random.default_rng(1)
    np.savez(folder / "problem.npz", A=rng.normal(size=(4, 5, 3)), b=rng.normal(size=(4, 5)))
    return folder


@pytest.fixture(scope="module")
def failed(make: Make, place: Path) -> Path:
    with pytest.raises(PeerError):
        make("failed", "algorithm=bad.py:Bad")
    return place / "failed"


@pytest.fixture
def copy(choco: Path, tmp_path: Path) -> Path:
    """The run, moved elsewhere and free to be spoiled."""
    return Path(shutil.copytree(choco, tmp_path / "elsewhere"))


def spoil(folder: Path, rounds: int, rows: int, pid: int) -> None:
    """Make it look as if it had come to these rounds and rows of /eval only."""
    with h5py.File(folder / "run.h5", "r+") as file:
        file.attrs["status"] = "running"
    for path in folder.glob("peers/*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs["pid"] = pid
            for group, kept in (("train", rounds), ("eval", rows)):
                for dataset in file[group].values():
                    dataset[kept:] = -1 if dataset.dtype.kind == "i" else np.nan


def invoke(*arguments: Any) -> tuple[int, str]:
    outcome = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return outcome.exit_code, outcome.output


def line(text: str, start: str) -> list[str]:
    """The numbers behind the label of a row."""
    found = next(one for one in text.splitlines() if one.startswith(start + " "))
    return found.removeprefix(start).split()


def test_summary_has_the_numbers_of_the_file(choco: Path) -> None:
    text = tables.summary(choco)
    with h5py.File(choco / "run.h5") as file:
        accuracy, sent = file["eval/accuracy"][:, -1], file["train/bytes_sent"][:, -1]
        local, phase = file["eval/accuracy"][:, -2], file["eval/phase"][0, -2:]
        distance = file["eval/consensus_distance"][0, -1]
    assert list(phase) == [0, 1]
    for label, values in (("local", local), ("consensus", accuracy)):
        expected = [f"{value:.4f}" for value in (values.mean(), values.min(), values.max())]
        assert line(text, f"accuracy after {label}") == expected
    assert line(text, "consensus distance after consensus") == [f"{distance:.4f}"]
    assert line(text, "payload sent")[-2:] == [f"{sent.sum() / 1000:.4g}", "kB"]
    assert text.startswith("small: done ")
    assert "choco-sgd (gamma = 0.4, " in text
    assert "4 peers, d = 610, 6 rounds" in " ".join(text.split())
    assert "virtual time" not in text
    assert "!" not in text


def test_virtual_time_and_show(make: Make) -> None:
    code, text = invoke("show", make("timed", *TIMED))
    assert code == 0
    with h5py.File(make("timed") / "run.h5") as file:
        assert line(text, "virtual time")[0] == f"{file['train/time'][:, -1].mean():.4g}"


def test_without_classes_loss_stands_for_accuracy(make: Make) -> None:
    folder = make("referee", *REFEREE)
    text = tables.summary(folder)
    assert "accuracy" not in text
    with h5py.File(folder / "run.h5") as file:
        assert line(text, "loss after consensus")[0] == f"{file['eval/loss'][:, -1].mean():.4f}"


@pytest.mark.parametrize("joined", [False, True])
def test_failed_run_says_who_and_how_far(failed: Path, joined: bool) -> None:
    path = join_run(failed, failed / "joined.h5", force=True) if joined else failed
    text = tables.summary(path)
    assert text.startswith("small: failed (rounds 3")
    assert "! peer 2 on " in text
    assert "of round 4: RuntimeError: on purpose" in text


def attribute(name: str, value: Any) -> Callable[[Path], None]:
    """Return a function that sets an attribute of run.h5 in a folder."""

    def change(folder: Path) -> None:
        with h5py.File(folder / "run.h5", "r+") as file:
            file.attrs[name] = value

    return change


def loop(folder: Path) -> None:
    """Make links of run.h5 that lead to each other."""
    with h5py.File(folder / "run.h5", "r+") as file:
        del file["train/loss"], file["train/time"]
        file["train/loss"] = h5py.SoftLink("/train/time")
        file["train/time"] = h5py.SoftLink("/train/loss")


def giant(folder: Path) -> None:
    """Make a dataset of run.h5 claim 10^13 entries."""
    with h5py.File(folder / "run.h5", "r+") as file:
        del file["train/time"]
        file.create_dataset("train/time", (4, 10**13), "f8", chunks=(1, 100))


def pipe(folder: Path) -> None:
    """Make a peer's file a named pipe, on which a reader waits for a writer."""
    path = folder / "peers" / "peer-00001.h5"
    path.unlink()
    os.mkfifo(path)


def pipe_of_run(folder: Path) -> None:
    """Make run.h5 a named pipe."""
    (folder / "run.h5").unlink()
    os.mkfifo(folder / "run.h5")


DAMAGED = {
    "experiment-no-toml": (attribute("experiment", "= ["), "Invalid statement"),
    "experiment-a-number": (attribute("experiment", 5), "'experiment'"),
    "experiment-without-sections": (attribute("experiment", "a = 1"), "no section 'algorithm'"),
    "status-no-utf-8": (attribute("status", np.bytes_(b"\xff\xfe")), "'status'"),
    "peers-a-word": (attribute("peers", "four"), "attribute 'peers' is 'four'"),
    "links-in-a-circle": (loop, "too many links"),
    "giant-header": (giant, "train/time"),
    "peer-a-pipe": (pipe, "peer-00001.h5 is no file"),
    "run-a-pipe": (pipe_of_run, "is no run"),
}


@pytest.mark.parametrize("command", ["show", "plot", "compare", "join"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_run_is_refused_in_one_sentence(name: str, command: str, copy: Path) -> None:
    damage, text = DAMAGED[name]
    damage(copy)
    result = CliRunner().invoke(main, [command, *[str(copy)] * (1 + (command == "compare"))])
    assert result.exit_code == 2, result.exception
    assert len(result.stderr.splitlines()) == 1
    assert text in result.stderr
    assert not {"joined.h5", "figure.png"} & {path.name for path in copy.iterdir()}


def test_the_combinations_after_a_failed_one_run(place: Path, tmp_path: Path) -> None:
    sweep = '[sweep]\nalgorithm = ["bad.py:Bad", "d-psgd"]\nseed = [1, 2]\n'
    (place / "sweep.toml").write_text(EXPERIMENT + sweep)
    call = ("run", place / "sweep.toml", "--debug", "--out", tmp_path)
    result = CliRunner().invoke(main, [str(argument) for argument in call])
    assert result.exit_code == 3
    *reasons, last = result.stderr.splitlines()
    names = [f"algorithm=bad.py_Bad-seed={seed}" for seed in (1, 2)]
    for reason, name in zip(reasons, names, strict=True):
        assert reason.startswith(f"p2psim: {name}: peer 2 on ")
    assert last == f"p2psim: 2 of 4 combinations failed: 0 ({names[0]}), 1 ({names[1]})"
    states = {path.parent.name: results.read(path).state for path in tmp_path.glob("*/run.h5")}
    assert sorted(name for name, state in states.items() if state == "done") == [
        "algorithm=d-psgd-seed=1",
        "algorithm=d-psgd-seed=2",
    ]


def test_killed_run_is_read_up_to_its_last_row(copy: Path, choco: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    spoil(copy, 3, 3, gone.pid)
    run = results.read(copy)
    assert run.state == "killed, none of its processes is alive (rounds 3 of 6)"
    assert list(run.rows(0)) == [0, 2]
    assert list(run.rows(1)) == [1]
    with h5py.File(choco / "run.h5") as file:
        expected = f"{file['eval/accuracy'][:, 1].mean():.4f}"
        sent = file["train/bytes_sent"][:, 2].sum()
    text = tables.summary(copy)
    assert line(text, "accuracy after consensus")[0] == expected
    assert line(text, "payload sent")[-2:] == [f"{sent / 1000:.4g}", "kB"]
    assert np.isnan(run.train["bytes_sent"][:, 3:]).all()


def test_running_run(copy: Path) -> None:
    spoil(copy, 0, 0, os.getpid())
    assert results.progress(copy)[:2] == (0, 6)  # type: ignore[index]
    assert results.read(copy).state == "running (rounds 0 of 6)"
    assert line(tables.summary(copy), "training loss") == ["nan"]
    spoil(copy, 0, 0, os.getpid())
    assert "running when it was joined" in tables.summary(join_run(copy))


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_lost_peer_leaves_the_rest_readable(copy: Path, damage: str) -> None:
    path = copy / "peers/peer-00001.h5"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:3000] if damage == "cut" else b"")
    text = tables.summary(copy)
    assert f"! peer 1: its file {'is missing' if damage == 'missing' else 'cannot be read'}" in text
    lines: list[str] = []
    run = results.read(join_run(copy, warn=lines.append))
    (lost,) = lines
    assert lost.startswith("peer 1: its file ")
    assert lost.endswith(": all of its values are NaN")
    assert monitor.look(copy).failures == [lost.partition(": all")[0]]
    assert np.isnan(run.train["loss"][1]).all()
    assert np.isfinite(run.train["loss"][[0, 2, 3]]).all()
    assert "! peer 1: no round recorded" in tables.summary(copy / "joined.h5")
    assert results.progress(copy)[:2] == (0, 6)  # type: ignore[index]
    assert "not compared: a run is incomplete" in tables.compare(copy, copy)


def test_compare_shows_what_differs_and_nothing_else(make: Make, choco: Path) -> None:
    other = make("strong", "algorithm.gamma=0.2", "seed=3")
    code, text = invoke("compare", choco, other)
    assert code == 0
    assert line(text, "algorithm.gamma") == ["0.4", "0.2"]
    assert line(text, "seed") == ["1", "3"]
    assert "topology.name" not in text
    ends = [results.read(folder).eval["accuracy"][:, -1].mean() for folder in (choco, other)]
    assert line(text, "accuracy after consensus") == [
        *(f"{end:.4f}" for end in ends),
        f"{ends[1] - ends[0]:+.4f}" if ends[0] != ends[1] else "+0",
    ]
    assert line(text, "payload sent")[-1] == "1"
    assert "final vectors differ" in text


def test_compare_of_equal_runs(choco: Path, copy: Path, make: Make) -> None:
    again = tables.compare(choco, make("again"))
    assert "The experiments are equal." in again
    assert "final vectors are equal bit for bit" in again
    with h5py.File(copy / "peers/peer-00003.h5", "r+") as file:
        file["final/x"][5] = np.nextafter(file["final/x"][5], np.float32(9))
    assert "final vectors differ, an entry by at most" in tables.compare(choco, copy)
    assert "have different shapes" in tables.compare(choco, make("referee", *REFEREE))


def plain(attributes: Any) -> dict[str, Any]:
    values = {k: v for k, v in attributes.items() if k not in join.WIRING}
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}


def scales(dataset: h5py.Dataset) -> list[list[str]]:
    return [[scale.name for scale in dimension.values()] for dimension in dataset.dims]


def test_joined_file_is_equal_and_stands_alone(copy: Path, tmp_path: Path) -> None:
    target = join_run(copy, tmp_path / "alone.h5")
    with h5py.File(copy / "run.h5") as origin, h5py.File(target) as made:
        assert plain(made.attrs) == plain(origin.attrs)
        assert datasets(made).keys() == datasets(origin).keys()
        assert len(datasets(made)) > 20
        for name, dataset in datasets(origin).items():
            twin = made[name]
            assert twin.dtype == dataset.dtype, name
            assert twin[...].tobytes() == dataset[...].tobytes(), name
            assert plain(twin.attrs) == plain(dataset.attrs), name
            assert scales(twin) == scales(dataset), name
            assert not twin.is_virtual
        assert scales(made["eval/class_accuracy"]) == [
            ["/eval/peer"],
            ["/eval/row"],
            ["/eval/class"],
        ]
    summary = tables.summary(target)
    shutil.rmtree(copy)
    assert tables.summary(target) == summary
    assert [path.name for path in tmp_path.iterdir()] == ["alone.h5"]


@pytest.mark.parametrize("joined", [False, True])
def test_xarray_opens_it_with_named_dimensions(copy: Path, joined: bool) -> None:
    xarray = pytest.importorskip("xarray")
    path = join_run(copy) if joined else copy / "run.h5"
    with xarray.open_dataset(path, group="eval", engine="h5netcdf") as opened:
        assert opened["class_accuracy"].dims == ("peer", "row", "class")
        assert opened["accuracy"].sizes == {"peer": 4, "row": 6}
        with h5py.File(copy / "run.h5") as file:
            assert np.array_equal(opened["accuracy"], file["eval/accuracy"])


def test_join_refuses_to_overwrite(copy: Path) -> None:
    assert invoke("join", copy) == (0, f"{copy / 'joined.h5'}\n")
    code, text = invoke("join", copy)
    assert (code, "--force" in text) == (2, True)
    assert invoke("join", copy, "--force")[0] == 0
    for target in (copy / "run.h5", copy / "peers", copy / "no" / "such.h5"):
        assert invoke("join", copy, "--force", "--to", target)[0] == 2
    assert results.read(copy).state == "done"


def test_join_that_fails_leaves_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError("disk full")

    before = sorted(copy.iterdir())
    monkeypatch.setattr("p2psim.analysis.join.copy", broken)
    with pytest.raises(InputError, match="disk full"):
        join_run(copy)
    assert sorted(copy.iterdir()) == before


def test_wrong_paths(place: Path, choco: Path) -> None:
    junk = place / "small.toml"
    for path in (place / "nothing", junk, choco / "peers", choco / "peers/peer-00000.h5"):
        for command in (["show", path], ["compare", choco, path], ["join", path], ["plot", path]):
            code, text = invoke(*command)
            assert code == 2, (command, text)
            assert repr(str(path)) in text
            assert "give a run folder" in text
    code, text = invoke("show", place)
    assert (code, "holds several runs" in text) == (2, True)
