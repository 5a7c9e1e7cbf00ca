"""Figures: what is drawn is what the files hold, for runs in every state."""

from __future__ import annotations

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

from p2psim.analysis import results, tables
from p2psim.cli import main
from p2psim.errors import InputError
from p2psim.launcher import run_requests, runner

pytest.importorskip("matplotlib")
from p2psim.analysis import plots
from tests.support.runs import EXPERIMENT

SETTINGS: dict[str, list[str]] = {
    "choco": [],
    "weak": ["algorithm.gamma=0.2"],
    "timed": ["algorithm=d-psgd", 'time.compute={name="constant"}', "eval.every=3"],
    "directed": ["algorithm=sgp", "topology=one-peer-exponential", "eval.phases=['local']"],
    "aligned": ["learning.rule=dfa", "eval.alignment=1"],
    "referee": ["data={name='quadratic',file='problem.npz'}", "model=vector", "eval.every=1"],
}
Load = Callable[..., list[results.Run]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.toml").write_text(EXPERIMENT)
    rng = np.random.default_rng(1)
    np.savez(folder / "problem.npz", A=rng.normal(size=(4, 5, 3)), b=rng.normal(size=(4, 5)))
    for name, settings in SETTINGS.items():
        runner.run(
            run_requests.requests(folder / "small.toml", tuple(settings), folder / name), True, None
        )
    return folder


@pytest.fixture(scope="module")
def load(place: Path) -> Load:
    return lambda *names: [results.read(place / name) for name in names]


def panels(figure: Any) -> dict[tuple[str, str], Any]:
    """The panels by their axis labels (the training loss tells its block there too)."""
    return {(axes.get_ylabel(), axes.get_xlabel()): axes for axes in figure.axes}


def drawn(axes: Any) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_lines_and_band_are_the_recorded_values(place: Path, load: Load) -> None:
    found = panels(plots.draw(load("choco")))
    with h5py.File(place / "choco" / "run.h5") as file:
        accuracy, phase = file["eval/accuracy"][:], file["eval/phase"][0]
        sent = np.concatenate([[0], file["train/bytes_sent"][:].mean(axis=0)])
        distance = file["eval/consensus_distance"][0]
    axes = found["test accuracy", "round"]
    for number in (0, 1):
        x, y = drawn(axes)[number]
        assert x == [2, 4, 6]
        assert y == pytest.approx(accuracy[:, phase == number].mean(axis=0))
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    after = accuracy[:, phase == 1]
    assert set(after.min(axis=0)) | set(after.max(axis=0)) <= set(corners)
    assert len(axes.collections) == 1
    local, consensus = drawn(found["test accuracy", "payload sent per peer (kB)"])
    assert local[0] == pytest.approx(sent[[1, 3, 5]] / 1000)
    assert consensus[0] == pytest.approx(sent[[2, 4, 6]] / 1000)
    below = found["consensus distance", "round"]
    assert [y for _, y in drawn(below)] == [list(distance[phase == k]) for k in (0, 1)]
    assert below.get_yscale() == "log"
    assert len(found) == 4


def test_virtual_time_has_its_panels(place: Path, load: Load) -> None:
    found = panels(plots.draw(load("choco", "timed")))
    lines = drawn(found["test accuracy", "virtual time (s)"])
    with h5py.File(place / "timed" / "run.h5") as file:
        times = file["eval/time"][:].mean(axis=0)
        losses = file["train/loss"][:].mean(axis=0)
    assert [x for x, _ in lines] == [list(times[0::2]), list(times[1::2])]
    training = drawn(found["training loss", "round"])
    assert training[1][0] == [1, 2, 3, 4, 5, 6]
    assert training[1][1] == pytest.approx(losses)
    assert len(training) == 2


def test_alignment_has_a_panel_with_a_line_for_each_weight(place: Path, load: Load) -> None:
    axes = panels(plots.draw(load("aligned")))["cosine with backpropagation", "round"]
    with h5py.File(place / "aligned" / "run.h5") as file:
        mixed = file["alignment/phase"][0] == 1  # models are measured before mixing, too
        rounds, cosines = file["alignment/round"][0, mixed], file["alignment/cosine"][:, mixed]
    assert 0 < mixed.sum() < mixed.size
    last, cosines = cosines[:, -1], cosines.mean(axis=0)
    assert len(axes.lines) == cosines.shape[1] > 1
    for line, values in zip(drawn(axes), cosines.T, strict=True):
        assert line[0] == list(rounds)
        assert line[1] == pytest.approx(values)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [f"weight {number + 1}" for number in range(len(texts))]
    found = {measure.label: measure for measure in tables.measures(load("aligned")[0])}
    shown = found["cosine with backpropagation, mean of weights"].values
    assert shown == pytest.approx(last.mean(axis=1))
    assert len(plots.draw(load("aligned", "choco")).axes) == 1 + len(plots.draw(load("choco")).axes)


def test_without_classes_the_loss_is_drawn(load: Load) -> None:
    found = panels(plots.draw(load("referee")))
    assert ("test accuracy", "round") not in found
    assert [x for x, _ in drawn(found["test loss", "round"])] == [[1, 2, 3, 4, 5, 6]] * 2


def test_phases_can_be_told_apart_and_the_key_names_them(load: Load) -> None:
    axes = panels(plots.draw(load("choco")))["test accuracy", "round"]
    one, two = axes.lines
    assert one.get_color() != two.get_color()
    assert one.get_linestyle() != two.get_linestyle()
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["after consensus, mean", "after local, mean", "range over peers"]
    alone = panels(plots.draw(load("directed")))["test accuracy", "round"]
    texts = [text.get_text() for text in alone.get_legend().get_texts()]
    assert texts == ["after local, mean", "range over peers"]
    assert len(alone.collections) == 1


def test_legend_says_what_differs(load: Load) -> None:
    assert plots.labels(load("choco", "weak")) == ["algorithm.gamma = 0.4", "algorithm.gamma = 0.2"]
    two = plots.labels(load("choco", "timed"))
    assert two == ["algorithm = choco-sgd", "algorithm = d-psgd, time.compute = constant"]
    three = plots.labels(load("choco", "weak", "directed"))
    assert three[1] == "algorithm = choco-sgd, algorithm.gamma = 0.2, topology = ring"
    assert three[2] == "algorithm = sgp, topology = one-peer-exponential"
    assert plots.labels(load("choco", "choco"))[0].endswith("choco")
    one, other = load("choco", "weak")
    time = {**one.experiment["time"], "compute": {"name": "constant"}}
    other.experiment = {**one.experiment, "time": time}
    assert plots.labels([one, other]) == ["choco", "weak"]  # what `one` has not, says nothing
    figure = plots.draw(load("choco", "weak"))
    shown = [text.get_text().replace("\u00a0", " ") for text in figure.legends[0].get_texts()]
    assert shown == ["algorithm.gamma = 0.4", "algorithm.gamma = 0.2"]
    assert not plots.draw(load("choco")).legends


def test_titles_hold_what_runs_share(load: Load) -> None:
    one = plots.title(load("choco"))
    assert one == "small · choco-sgd · ring · digits · 4 peers · d = 610"
    assert plots.title(load("choco", "timed")) == "small · ring · digits · 4 peers · d = 610"


def test_every_graph_is_drawn_once(load: Load) -> None:
    figure = plots.draw(load("choco", "weak", "directed"))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["ring, n = 4", "one-peer-exponential, n = 4\nunion of 2 steps"]
    ring, directed = [axes for axes in figure.axes if axes.get_title()]
    assert len(ring.collections[0].get_segments()) == 4
    ranks = [text.get_text() for text in ring.texts if text.get_text()]
    assert ranks == ["0", "1", "2", "3"]
    # 1 place on is one way, 2 places on is both ways: 4 arrows and 2 lines
    assert len(directed.collections[0].get_segments()) == 2
    assert sum(getattr(text, "arrow_patch", None) is not None for text in directed.texts) == 4


@pytest.mark.parametrize("n", [1, 2, 40, 300])
def test_graphs_of_any_size(n: int) -> None:
    from matplotlib.figure import Figure

    axes: Any = Figure().add_subplot()
    plots.draw_graph(axes, ~np.eye(n, dtype=bool), 1.0)
    assert len(axes.collections[0].get_segments()) == n * (n - 1) // 2
    assert axes.collections[0].get_rasterized() == (n == 300)
    assert bool(axes.texts) == (n < 40)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_formats(place: Path, tmp_path: Path, kind: str) -> None:
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    made = [plots.plot([place / "choco"], tmp_path / f"{name}.{kind}") for name in "ab"]
    contents = [path.read_bytes() for path in made]
    assert contents[0].startswith(starts[kind])
    assert contents[0] == contents[1]


def test_command_and_its_mistakes(place: Path, tmp_path: Path) -> None:
    def invoke(*arguments: Any) -> tuple[int, str]:
        outcome = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return outcome.exit_code, outcome.output

    figure = place / "choco" / "figure.png"
    assert invoke("plot", place / "choco", place / "weak") == (0, f"{figure}\n")
    assert figure.stat().st_size > 10_000
    figure.unlink()
    code, text = invoke("plot", place / "choco", "--to", tmp_path / "a.jpg")
    assert (code, ".png, .svg, .pdf" in text) == (2, True)
    code, text = invoke("plot", place / "choco", "--to", tmp_path / "no" / "a.png")
    assert (code, "cannot write" in text) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_sweep_stands_for_its_runs(place: Path) -> None:
    assert results.expand(place) == sorted(place / name for name in SETTINGS)
    assert plots.plot([place]) == place / "figure.png"
    (place / "figure.png").unlink()


def test_a_run_without_rows_says_so(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    shutil.copytree(place / "timed", folder)
    shutil.rmtree(folder / "peers")
    (folder / "peers").mkdir()
    figure = plots.draw([results.read(folder)])
    assert "rounds 0 of 6" in figure.get_suptitle()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("nothing recorded yet") == 3
    assert plots.plot([folder, place / "choco"], tmp_path / "a.svg").exists()
    assert plots.labels([results.read(folder)])[0].endswith("[done (rounds 0 of 6)]")


def test_without_matplotlib(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'p2psim\[plot\]'"):
        plots.plot([place / "choco"])


@pytest.mark.parametrize("command", ["--help", "list", "show", "compare"])
def test_heavy_libraries_stay_out(place: Path, command: str) -> None:
    runs = {"show": ["choco"], "compare": ["choco", "weak"]}.get(command, [])
    code = (
        "import sys; from p2psim.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print([m for m in ('torch', 'mpi4py', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    arguments = [command, *(str(place / run) for run in runs)]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("[]\n") or command == "--help"
