"""p2psim.api: values against h5py, runs by threads and by ranks, sweeps, errors, signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tomli_w

from p2psim import api
from p2psim.errors import InputError, PeerError, StoppedError
from p2psim.launcher import ranks
from tests.support.runs import EXPERIMENT

Table = dict[str, Any]
TABLE: Table = {
    "name": "small",
    "peers": 4,
    "rounds": 6,
    "data": {"name": "digits", "batch_size": 16},
    "model": {"name": "mlp", "hidden": [8]},
    "topology": "ring",
    "algorithm": {"name": "choco-sgd", "gamma": 0.4},
    "eval": {"every": 2},
    "time": {"compute": "constant"},
}
# Plug-in that misbehaves in its third consensus step, or only in ranks that a launcher has started.
PLUGIN = """
import os, sys, time
from pathlib import Path
from p2psim.base import Algorithm
from p2psim.registry import plugin

LAUNCHER = os.environ.get("P2PSIM_LAUNCHED", "").partition("-")[0]

@plugin("algorithm", "odd")
class Odd(Algorithm):
    number: int = 0      # signal to the process that runs the experiment
    fails: int = 99      # call that fails on peer 2
    prints: str = ""     # to standard error
    scale: float = 1.0
    folder: str = ""

    def start(self, x, oracle, net):
        self.calls = 0
        if self.prints and net.rank == 1:
            print(self.prints, file=sys.stderr, flush=True)

    def consensus(self, x, oracle, net):
        self.calls += 1
        if net.rank == 2 and self.calls == self.fails:
            raise RuntimeError("on purpose")
        if net.rank == 0 and self.calls == 3 and self.number:
            os.kill(int(LAUNCHER or os.getpid()), self.number)
            end = time.monotonic() + (60 if LAUNCHER else 1)
            while time.monotonic() < end and not Path(self.folder, ".stop").exists():
                time.sleep(0.02)
        return net.mix(x) * x.dtype.type(self.scale)
"""
REFUSING = """
import os
if "P2PSIM_LAUNCHED" in os.environ:
    raise ValueError("not in a rank")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    (folder / "small.toml").write_text(EXPERIMENT)
    return folder


@pytest.fixture(scope="module", params=["threads", "ranks"])
def small(place: Path, request: pytest.FixtureRequest) -> Any:
    return api.run(TABLE, out=place / request.param, debug=request.param == "threads")


@pytest.fixture(scope="module")
def threads(place: Path) -> Any:
    return api.run(TABLE, out=place / "small", debug=True)


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Experiment with the plug-in, by a path relative to the current folder."""
    (tmp_path / "odd.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    return {**TABLE, "algorithm": {"name": "odd.py:Odd"}, "topology": "ring"}


def test_import_takes_no_heavy_library() -> None:
    heavy = ("torch", "mpi4py", "xarray", "pandas", "h5py")
    code = f"import sys, p2psim.api; print([m for m in {heavy} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "[]\n", ended.stderr


def test_values_are_those_of_the_file(small: Any) -> None:
    with h5py.File(small.path / "run.h5", locking=False) as file:
        for group in ("train", "eval"):
            columns = {k: v for k, v in file[group].items() if not v.is_scale}
            variables = getattr(small, group)
            assert variables.data_vars.keys() == columns.keys() - {"round", "phase"}
            for name in variables.data_vars:
                values, column = variables[name], columns[name]
                assert values.dtype == column.dtype, name
                assert np.array_equal(values, column, equal_nan=column.dtype.kind == "f"), name
                assert values.attrs["units"] == column.attrs["unit"]
                assert values.attrs["long_name"] == column.attrs["meaning"]
        assert small.final.tobytes() == file["final/x"][:].tobytes()
        assert np.array_equal(small.weights, file["topology/weights"])
        assert small.final.shape == (4, file.attrs["parameters"])
        assert small.primary == file.attrs["primary"] == "accuracy"
    assert small.train.loss.dims == ("peer", "round")
    assert list(small.train["round"]) == [1, 2, 3, 4, 5, 6]
    assert small.eval.class_accuracy.dims == ("peer", "row", "class")
    assert list(small.eval["round"]) == [2, 2, 4, 4, 6, 6]
    assert list(small.eval.phase) == ["local", "consensus"] * 3
    assert (small.status, small.failures, small.weights.shape) == ("done", [], (1, 4, 4))
    assert small.experiment["algorithm"]["compressor"] == {"name": "identity"}


def test_threads_and_ranks_give_the_same_bits(small: Any, threads: Any) -> None:
    assert small.final.tobytes() == threads.final.tobytes()
    for group in ("train", "eval"):
        assert (
            getattr(small, group)
            .drop_vars("wall", errors="ignore")
            .identical(getattr(threads, group).drop_vars("wall", errors="ignore"))
        )


def test_a_joined_file_is_a_run(threads: Any, tmp_path: Path) -> None:
    from p2psim.analysis import results

    alone = api.load(results.join(threads.path, tmp_path / "alone.h5"))
    assert alone.train.identical(threads.train)
    assert alone.eval.identical(threads.eval)
    assert alone.final.tobytes() == threads.final.tobytes()
    assert "done, 4 peers, d = 610" in repr(alone)


def test_frames_have_a_row_for_each_measurement(threads: Any) -> None:
    frame = threads.frame("eval")
    assert list(frame.columns[:3]) == ["peer", "round", "phase"]
    assert "class_accuracy" not in frame
    with h5py.File(threads.path / "run.h5", locking=False) as file:
        for row in frame.itertuples():
            column = 2 * (row.round // 2 - 1) + ["local", "consensus"].index(row.phase)
            assert row.accuracy == file["eval/accuracy"][row.peer, column]
        assert len(frame) == file["eval/loss"].size
        train = threads.frame("train")
        sent = train.pivot(index="peer", columns="round", values="bytes_sent")
        assert np.array_equal(sent, file["train/bytes_sent"])
    assert threads.frame("algorithm").empty
    with pytest.raises(InputError, match=r"frame\('evil'\): did you mean 'eval'"):
        threads.frame("evil")


def test_an_incomplete_run_ends_at_the_last_row_of_the_fastest_peer(
    threads: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(threads.path, tmp_path / "cut"))
    for rank in range(4):
        with h5py.File(folder / f"peers/peer-{rank:05d}.h5", "r+") as file:
            for group, rows in (("train", 4 if rank == 1 else 3), ("eval", 3 if rank == 1 else 2)):
                for column in file[group].values():
                    column[rows:] = -1 if column.dtype.kind == "i" else np.nan
    run = api.load(folder)
    assert dict(run.train.sizes) == {"peer": 4, "round": 4}
    assert list(run.eval["round"]) == [2, 2, 4]
    assert np.isnan(run.train.bytes_sent[[0, 2, 3], 3]).all()
    assert run.train.bytes_sent[1, 3] == threads.train.bytes_sent[1, 3]
    assert run.frame("train").groupby("peer").size().tolist() == [3, 4, 3, 3]
    assert run.frame("eval").groupby("peer").size().tolist() == [2, 3, 2, 2]
    (row,) = api.load_sweep(folder).itertuples()
    assert row.loss == pytest.approx(float(threads.eval.loss[:, 1].mean()), rel=1e-14)


def test_a_sweep_is_a_list_of_runs_and_a_frame(place: Path) -> None:
    out = place / "sweep"
    file = place / "sweep.toml"
    sweep = {"algorithm.gamma": [0.1, 0.2], "seed": [1, 2]}
    file.write_text(tomli_w.dumps({**TABLE, "sweep": sweep}))
    runs: Any = api.run(file, out=out, debug=True)
    frame = api.load_sweep(out)
    assert list(frame.index) == [run.name for run in runs]
    assert list(frame["algorithm.gamma"]) == [0.1, 0.1, 0.2, 0.2]
    assert list(frame["seed"]) == [1, 2, 1, 2]
    swept, measured = ["seed", "algorithm.gamma"], ["accuracy", "loss", "consensus_distance"]
    assert list(frame.columns) == [*swept, "status", *measured, "bytes_sent", "time"]
    assert set(frame.status) == {"done"}
    for name, row in frame.iterrows():
        with h5py.File(out / str(name) / "run.h5", locking=False) as opened:
            for column in measured:
                expected = opened[f"eval/{column}"][:, -1].mean()
                assert row[column] == pytest.approx(expected, rel=1e-14)
            assert row.bytes_sent == opened["train/bytes_sent"][:, -1].sum()
            assert row.time == opened["train/time"][:, -1].max() > 0
    assert api.plan(file).keys() == set(frame.index)


def test_a_sweep_by_ranks(tmp_path: Path) -> None:
    sweep = {"algorithm.gamma": np.array([0.1, 0.2])}
    runs: Any = api.run(TABLE, set={"sweep": sweep, "rounds": 2}, out=tmp_path / "runs" / "s")
    assert [run.experiment["algorithm"]["gamma"] for run in runs] == [0.1, 0.2]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["s"]  # no file for the ranks
    assert len(api.load_sweep(tmp_path / "runs" / "s")) == 2
    with pytest.raises(InputError, match="holds several runs"):
        api.load(tmp_path / "runs" / "s")


def test_plan_is_that_of_the_command_line(place: Path) -> None:
    command = [sys.executable, "-m", "p2psim", "plan", "small.toml", "--set", "peers=6"]
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60)
    rows = api.plan(place / "small.toml", set={"peers": 6})
    assert ended.stdout == "".join(f"{name:>14}  {text}\n" for name, text in rows.items())
    assert rows["topology"].startswith("ring: 6 peers")


def test_settings_take_values_of_numpy_and_paths(odd: Table) -> None:
    settings = {
        "seed": np.int64(3),
        "algorithm": {"name": Path("odd.py:Odd"), "scale": np.float32(0.5)},
        "model.hidden": (np.int32(4),),
        "eval.every": np.array(3),
    }
    run = api.run(odd, set=settings, debug=True)
    assert run.path == Path("runs/small")
    assert run.experiment["model"]["hidden"] == [4]
    assert run.experiment["algorithm"]["scale"] == 0.5
    assert (run.experiment["seed"], run.experiment["eval"]["every"]) == (3, 3)
    assert odd["model"] == TABLE["model"]  # the tables of the caller stay as they are


@pytest.mark.parametrize(
    ("experiment", "settings", "text"),
    [
        ("no.toml", {}, "there is no experiment file 'no.toml'"),
        (7, {}, "7 is no experiment: give the path of an experiment file, or its tables"),
        ({"peers": 4}, {}, "give either rounds or epochs"),
        (TABLE, {"algorithm.gama": 1}, "unknown key 'algorithm.gama'; did you mean 'gamma'"),
        (TABLE, {"algorithm gamma": 1}, "'algorithm gamma' is no key; give a dotted key"),
        (TABLE, {"algorithm.gamma": None}, "algorithm.gamma = None: give a number"),
        (TABLE, {"rounds": "six"}, "rounds = 'six': give a whole number"),
        ({**TABLE, "sweep": {"seed": [1, 2]}}, {"seed": 3}, r"\[sweep\] has values for seed"),
        ({**TABLE, "algorithm": "none.py:None"}, {}, "there is no file"),
    ],
)
@pytest.mark.parametrize("call", ["run", "plan"])
def test_mistakes_are_input_errors_and_write_nothing(
    call: str,
    experiment: Any,
    settings: Table,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=text):
        getattr(api, call)(experiment, set=settings)
    assert list(tmp_path.iterdir()) == []


def test_wrong_options(threads: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists and is not empty"):
        api.run(TABLE, out=threads.path)
    with pytest.raises(InputError, match="give one of them"):
        api.run(TABLE, out=threads.path, force=True, resume=True)
    with pytest.raises(InputError, match="is no run"):
        api.load(tmp_path)
    with pytest.raises(InputError, match="is no run"):
        api.load_sweep(tmp_path)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(InputError, match="this process is a rank already"):
        api.run(TABLE, out=tmp_path / "out")


@pytest.mark.parametrize("library", ["xarray", "pandas"])
def test_a_missing_library_is_named(
    library: str, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    run = api.load(threads.path)
    assert run.status == "done"
    with pytest.raises(InputError, match=rf"needs {library}: pip install 'p2psim\[api\]'"):
        _ = run.eval if library == "xarray" else api.load_sweep(threads.path)


@pytest.mark.parametrize("debug", [True, False])
def test_a_peer_that_fails(odd: Table, debug: bool) -> None:
    with pytest.raises(PeerError, match=r"peer 2 on .* of round 4: RuntimeError: on purpose"):
        api.run(odd, set={"algorithm.fails": 4}, debug=debug)
    run = api.load("runs/small")
    assert run.status == "failed"
    assert "on purpose" in run.failures[0]
    assert list(run.train["round"]) == [1, 2, 3]
    assert np.isnan(run.final).all()
    assert list(api.load_sweep("runs/small").status) == ["failed"]
    again = api.run(odd, force=True)  # by ranks, in the folder of threads of this very process
    assert again.status == "done"
    with pytest.raises(InputError, match="another run has replaced"):
        api.load("runs/small") and api.run(odd, force=True, debug=True) and again.final


def test_ranks_that_refuse_give_their_reason(odd: Table) -> None:
    Path("odd.py").write_text(PLUGIN + REFUSING)
    with pytest.raises(InputError, match="cannot be loaded: ValueError\\('not in a rank'\\)"):
        api.run(odd)
    assert not list(Path().glob("runs/*"))


def test_ranks_write_to_the_standard_error_of_python(
    odd: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    api.run(odd, set={"algorithm.prints": "läuft"})
    assert capsys.readouterr().err == "läuft\n"
    api.run(odd, out="bar", progress=True)
    assert "6/6 rounds" in " ".join(capsys.readouterr().err.split())


def test_an_edited_plug_in_is_read_again(odd: Table) -> None:
    first = api.run(odd, out="one", debug=True)
    Path("odd.py").write_text(PLUGIN.replace("scale: float = 1.0", "scale: float = 0.125"))
    second = api.run(odd, out="two", debug=True)
    assert second.experiment["algorithm"]["scale"] == 0.125
    assert np.abs(second.final).max() < np.abs(first.final).max()


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_and_reaches_the_caller(
    odd: Table, debug: bool, number: signal.Signals
) -> None:
    received: list[int] = []
    before = {n: signal.getsignal(n) for n in ranks.STOPPING}
    if number == signal.SIGTERM:
        signal.signal(number, lambda n, frame: received.append(n))
    own = signal.getsignal(number)
    odd = {
        **odd,
        "algorithm": {"name": "odd.py:Odd", "number": int(number), "folder": "runs/small"},
    }
    error = KeyboardInterrupt if number == signal.SIGINT else StoppedError
    try:
        with pytest.raises(error):
            api.run(odd, debug=debug)
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, before[number])
    assert {n: signal.getsignal(n) for n in ranks.STOPPING} == before
    assert received == [number] * (number == signal.SIGTERM)
    stopped = api.load("runs/small")
    assert (stopped.status, stopped.train.sizes["round"]) == ("stopped", 3)
    resumed = api.run(odd, debug=debug, resume=True)
    whole = api.run(odd, set={"algorithm.number": 0}, out="whole", debug=True)
    assert resumed.status == "done"
    assert resumed.final.tobytes() == whole.final.tobytes()
    assert api.run(odd, resume=True).final.tobytes() == whole.final.tobytes()  # nothing is left


def test_the_process_of_the_caller_stays_as_it_is(odd: Table) -> None:
    import torch

    threads, handlers = torch.get_num_threads(), [signal.getsignal(n) for n in ranks.STOPPING]
    variables, state = dict(os.environ), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        api.run(odd, out="threads", debug=True)
        api.run(odd, out="ranks")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(os.environ) == variables
    assert [signal.getsignal(n) for n in ranks.STOPPING] == handlers


@pytest.mark.parametrize("debug", [True, False])
def test_a_thread_runs_an_experiment(debug: bool, threads: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        run: Any = pool.submit(api.run, TABLE, out=tmp_path / "out", debug=debug).result(120)
    assert run.final.tobytes() == threads.final.tobytes()


def test_warnings_point_at_the_caller(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="to resume: starting a new run") as caught:
        api.run(TABLE, out=tmp_path / "out", resume=True, debug=True)
    assert [warning.filename for warning in caught] == [__file__]


def test_the_example_is_a_script(tmp_path: Path) -> None:
    assert api.__doc__
    example = textwrap.dedent(api.__doc__.partition("\n\n")[2].partition("\n\nAn exp")[0])
    (tmp_path / "example.py").write_text(example)
    command = [sys.executable, "example.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "done accuracy (4, 2410)" in ended.stdout
    assert len(api.load_sweep(tmp_path / "runs/gammas")) == 3
