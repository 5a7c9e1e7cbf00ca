"""Tables of numbers: real files where $P2PSIM_DATA has them, small ones everywhere."""

from __future__ import annotations

import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim import rng
from p2psim.base import Data
from p2psim.errors import InputError
from tests.support.datasets import open_data

REAL = os.environ.get("P2PSIM_DATA", "")


def test_importing_and_opening_costs_numpy_only() -> None:
    code = (
        "import sys; from p2psim import registry\n"
        "for kind in ('data', 'partition', 'model'): registry.names(kind)\n"
        "registry.names('data')['digits']().open('.')\n"
        "registry.names('model')['cnn']().shapes((1, 8, 8), 10)\n"
        "print({'torch', 'sklearn', 'scipy', 'pooch', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# digits


def test_digits_split_and_shapes() -> None:
    data = open_data("digits")
    inputs, targets = data.test()
    assert (data.labels().size, targets.size) == (1437, 360)
    assert inputs.shape == (360, 1, 8, 8)
    assert inputs.dtype == np.uint8
    assert np.bincount(data.labels(), minlength=10).min() > 120
    every, _ = data.train(np.arange(1437))
    assert every.sum() + inputs.sum() == 561718  # all pixels of the published file
    again = open_data("digits")
    assert np.array_equal(again.train(np.arange(1437))[0], every)


def test_digits_split_is_pinned() -> None:
    assert open_data("digits").labels()[:12].tolist() == [6, 1, 9, 9, 5, 9, 6, 5, 3, 1, 6, 3]


def test_digits_are_standardized_by_the_training_part() -> None:
    data = open_data("digits")
    inputs, targets = data.train(np.arange(1437))
    values = (inputs * data.scale + data.shift).reshape(1437, 64)
    changing = inputs.reshape(1437, 64).std(axis=0) > 0
    assert np.allclose(values.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(values.std(axis=0)[changing], 1, atol=1e-4)
    assert 0 < np.count_nonzero(~changing) < 5
    assert not values[:, ~changing].any()
    assert np.array_equal(targets, data.labels())


def test_digits_unit_scaling_and_other_split() -> None:
    data = open_data("digits", scaling="unit", test_samples=397)
    assert (data.labels().size, data.scale, data.shift) == (1400, 1 / 16, 0.0)
    with pytest.raises(InputError, match="at most 1796"):
        open_data("digits", test_samples=1797)


# Diabetes


def test_diabetes_is_standardized_by_the_training_part() -> None:
    from sklearn.datasets import load_diabetes

    data = open_data("diabetes")
    assert (data.shape, data.outputs, data.classes, data.task) == ((10,), 1, 0, "regression")
    inputs, targets = data.train(np.arange(354))
    tests, rest = data.test()
    assert (inputs.shape, tests.shape, rest.shape) == ((354, 10), (88, 10), (88,))
    train = np.column_stack([inputs, targets])
    assert np.abs(train.mean(axis=0)).max() < 1e-12
    assert np.abs(train.std(axis=0) - 1).max() < 1e-12
    # In every column, the published numbers are the same up to a scale and a shift.
    published = load_diabetes(scaled=False)
    table = np.column_stack([published.data, published.target])
    every = np.concatenate([train, np.column_stack([tests, rest])])
    for ours, theirs in zip(np.sort(every, axis=0).T, np.sort(table, axis=0).T, strict=True):
        assert abs(np.corrcoef(ours, theirs)[0, 1] - 1) < 1e-12
    again = open_data("diabetes")
    assert np.array_equal(again.test()[0], tests)


def test_diabetes_split_is_pinned_and_labels_are_quarters() -> None:
    data = open_data("diabetes")
    labels, (_, targets) = data.labels(), data.train(np.arange(354))
    assert labels[:12].tolist() == [1, 0, 3, 1, 3, 3, 1, 3, 3, 3, 1, 0]
    # Patients with the same target are in the same quarter.
    assert np.bincount(labels).tolist() == [91, 86, 88, 89]
    ranks = np.argsort(np.argsort(targets, kind="stable"))
    assert np.abs(labels - ranks * 4 / 354).max() < 1.1
    assert all(targets[labels < k].max() < targets[labels >= k].min() for k in (1, 2, 3))
    with pytest.raises(InputError, match=r"test_samples = 441: diabetes has 442.*at most 440"):
        open_data("diabetes", test_samples=441)


# LIBSVM


def small_libsvm(path: Path, pair: tuple[str, str], rows: int = 50) -> None:
    lines = [f"{pair[i % 3 == 0]} {1 + i % 4}:1 7:1  # row {i}" for i in range(rows)]
    text = "\n".join(["# a comment", "", *lines]).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


@pytest.mark.parametrize("pair", [("-1", "+1"), ("0", "1"), ("1", "2"), ("-1.0", "1e0")])
@pytest.mark.parametrize("name", ["own.txt", "own.gz"])
def test_libsvm_own_file(tmp_path: Path, pair: tuple[str, str], name: str) -> None:
    small_libsvm(tmp_path / name, pair)
    data = open_data("libsvm", tmp_path, file=name)
    assert (data.shape, data.outputs, data.classes, data.task) == ((7,), 1, 2, "binary")
    labels, (inputs, targets) = data.labels(), data.test()
    assert (labels.size, targets.size) == (40, 10)
    assert labels.sum() + targets.sum() == 17
    some, held = data.train(np.array([39, 3, 3]))
    assert some.dtype == inputs.dtype == np.uint8
    assert some[:, 6].tolist() == [1, 1, 1]
    assert some.sum(axis=1).tolist() == [2, 2, 2]
    assert held.tolist() == labels[[39, 3, 3]].tolist()
    columns = np.concatenate([data.train(np.arange(40))[0], inputs])[:, :4].sum(axis=0)
    assert columns.tolist() == [13, 13, 12, 12]


def test_libsvm_test_part_and_real_values(home: Path, tmp_path: Path) -> None:
    (home / "libsvm").mkdir()
    small_libsvm(home / "libsvm" / "a9a.gz", ("-1", "+1"))
    (home / "libsvm" / "a9a.t").write_text("1 2:0.5 9:-3\n-1 1:1\n")
    data = open_data("libsvm", file="a9a")
    inputs, targets = data.test()
    assert (data.labels().size, data.shape, targets.tolist()) == (50, (123,), [1, 0])
    assert inputs.dtype == np.float32
    assert inputs[0, [1, 8]].tolist() == [0.5, -3]


def all_rows(data: Data) -> None:
    data.train(np.arange(data.labels().size))
    data.test()


def test_libsvm_wrong_files(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give one of a9a, w8a, mushrooms"):
        open_data("libsvm", tmp_path, file="nothing")
    with pytest.raises(InputError, match=r"a9a.*download it from https"):
        open_data("libsvm", tmp_path, file="a9a")
    for text in (
        "",
        "1 1:1",
        "1 1:1\n5 1:1",
        "1 1:1\nx 2:1",
        "1 2:1 1:1\n0 1:1",
        "1 0:1\n0 1:1",
        "1 1:1\n0 1:nan",
        "1 a:1\n0 1:1",
        "1\n0",
    ):
        (tmp_path / "x").write_text(text)
        with pytest.raises(InputError, match=r"x' cannot be used"):
            all_rows(open_data("libsvm", tmp_path, file="x"))


@pytest.mark.parametrize(
    ("file", "rows", "positive", "d"),
    [("a9a", 32561, 7841, 123), ("w8a", 39800, 1479, 300), ("mushrooms", 6500, 4208, 112)],
)
def test_libsvm_published(file: str, rows: int, positive: int, d: int) -> None:
    if not REAL or not (Path(REAL) / "libsvm").is_dir():
        pytest.skip("P2PSIM_DATA has no folder libsvm")
    data = open_data("libsvm", file=file)
    inputs, targets = data.test()
    assert (data.labels().size, data.shape) == (rows, (d,))
    assert inputs.dtype == np.uint8
    in_test = targets.sum() if file != "a9a" else 0
    assert data.labels().sum() + in_test == positive
    assert inputs.shape == ({"a9a": 16281, "w8a": 9949, "mushrooms": 1624}[file], d)


# Quadratic


def problem(n: int = 3, m: int = 4, d: int = 2, dtype: Any = np.float64) -> dict[str, Any]:
    draw = rng.generator(1, "quadratic").standard_normal
    return {
        "A": draw((n, m, d)).astype(dtype),
        "b": draw((n, m)).astype(dtype),
        "x0": draw((n, d)).astype(dtype),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quadratic_is_the_function_of_the_file(tmp_path: Path, dtype: Any) -> None:
    arrays = problem(dtype=dtype)
    np.savez(tmp_path / "p.npz", **arrays)
    data = open_data("quadratic", tmp_path, file="p.npz")
    assert (data.shape, data.outputs, data.classes, data.task) == ((2,), 1, 0, "least-squares")
    parts = data.parts(3)
    assert parts is not None
    for i, part in enumerate(parts):
        x = data.initial(i)
        assert x is not None
        assert (x.dtype, x.tolist()) == (dtype, arrays["x0"][i].tolist())
        rows, targets = data.train(part)
        mine = np.mean((rows @ x - targets) ** 2) / 2
        residual = arrays["A"][i] @ x - arrays["b"][i]
        assert np.isclose(mine, residual @ residual / (2 * 4))
    assert data.test()[0].shape == (12, 2)
    with pytest.raises(InputError, match=r"holds 3 peers, the experiment has 4; set peers = 3"):
        data.parts(4)


def test_quadratic_starts_at_zero_without_x0(tmp_path: Path) -> None:
    arrays = problem()
    del arrays["x0"]
    np.savez_compressed(tmp_path / "p.npz", **arrays)
    first = open_data("quadratic", tmp_path, file="p.npz").initial(2)
    assert first is not None
    assert first.tolist() == [0.0, 0.0]


def spoiled(**changes: Any) -> dict[str, Any]:
    arrays = {**problem(), **changes}
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"A": None}, "no array 'A'"),
        ({"b": None}, "no array 'b'"),
        ({"A": np.zeros((3, 2))}, r"give \(n, m, d\)"),
        ({"A": np.zeros((0, 4, 2))}, r"give \(n, m, d\)"),
        ({"b": np.zeros((4, 3))}, r"must be \(3, 4\)"),
        ({"x0": np.zeros(2)}, r"must be \(3, 2\)"),
        ({"b": np.zeros((3, 4), int)}, "b in int64; give float64 or float32"),
        ({"x0": np.zeros((3, 2), np.float16)}, "x0 in float16"),
        ({"A": np.full((3, 4, 2), np.nan)}, "not finite"),
        ({"b": np.full((3, 4), np.inf)}, "not finite"),
        ({"A": np.array([{}], object)}, "cannot be used"),
    ],
)
def test_quadratic_wrong_arrays(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    np.savez(tmp_path / "p.npz", **spoiled(**changes))
    with pytest.raises(InputError, match=says):
        open_data("quadratic", tmp_path, file="p.npz")


def test_quadratic_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        open_data("quadratic", tmp_path, file="none.npz")
    np.savez(tmp_path / "p.npz", **problem())
    whole = (tmp_path / "p.npz").read_bytes()
    for content in (
        whole[:200],
        b"",
        b"hello",
        pickle.dumps([1]),
        whole.replace(b"NUMPY", b"NUMBY"),
    ):
        (tmp_path / "p.npz").write_bytes(content)
        with pytest.raises(InputError, match="cannot be used"):
            open_data("quadratic", tmp_path, file="p.npz")
    np.save(tmp_path / "p.npy", np.zeros((3, 4, 2)))
    with pytest.raises(InputError, match=r"not an \.npz"):
        open_data("quadratic", tmp_path, file="p.npy")
    with pytest.raises(InputError):
        open_data("quadratic", tmp_path, file=".")
