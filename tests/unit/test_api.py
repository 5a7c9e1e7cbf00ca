"""p2psim.api: values against h5py, runs by threads and by ranks, sweeps, errors, signals."""

from __future__ import annotations

import shutil
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
from p2psim.errors import InputError
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
    return api.run({**TABLE, "run": {"join": 0}}, out=place / "small", debug=True)


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
    from p2psim.analysis.join import join_run

    alone = api.load(join_run(threads.path, tmp_path / "alone.h5"))
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
    with pytest.raises(InputError, match="holds a run"):
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
def test_a_thread_runs_an_experiment(debug: bool, threads: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        run: Any = pool.submit(api.run, TABLE, out=tmp_path / "out", debug=debug).result(120)
    assert run.final.tobytes() == threads.final.tobytes()


def test_warnings_point_at_the_caller(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="to resume: starting a new run") as caught:
        api.run(TABLE, out=tmp_path / "out", resume=True, debug=True)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.thorough  # four runs
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
