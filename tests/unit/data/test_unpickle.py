"""Reading pickles: nothing in them is run, everything that is not data is refused."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim.data import unpickle
from p2psim.errors import InputError

REAL = os.environ.get("P2PSIM_DATA", "")


class Evil:
    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_unpickling_runs_nothing(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "x.pickle", tmp_path / "trace"
    for evil in (Evil(os.system, f"touch {trace}"), Evil(eval, "1"), Evil(getattr, [], "append")):
        path.write_bytes(pickle.dumps({"data": [evil]}, protocol))
        with pytest.raises(InputError, match=r"which is not data\); cure"):
            unpickle.load(path, "cure")
    assert not trace.exists()


def test_unpickling_refuses_arrays_of_objects_and_lies(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    honest = pickle.dumps(np.arange(4, dtype="<i4"), 2)
    record = np.zeros(2, [("a", "i4")])
    lies = (
        pickle.dumps(np.array([{}, []], object), 2),
        pickle.dumps(record, 2),
        honest.replace(b"K\x04\x85", b"K\x09\x85"),
        honest.replace(b"K\x04\x85", b"J\xff\xff\xff\xff\x85"),
    )
    for lie in lies:
        assert lie != honest
        path.write_bytes(lie)
        with pytest.raises(InputError, match="cure"):
            unpickle.load(path, "cure")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_unpickling_gives_arrays_and_containers(tmp_path: Path, protocol: int) -> None:
    made = {"a": [1, 2.5, None, True], "b": (np.arange(6.0).reshape(2, 3).T, {3}), "c": "x"}
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(made, protocol))
    read = unpickle.load(path, "cure")
    assert read["a"] == made["a"]
    assert np.array_equal(np.asarray(read["b"][0]), np.arange(6.0).reshape(2, 3).T)
    assert (read["b"][1], read["c"]) == ({3}, "x")
    path.write_bytes(pickle.dumps(np.arange(3, dtype=">u2"), protocol))
    assert unpickle.load(path, "cure").tolist() == [0, 1, 2]


def test_unpickling_a_published_sparse_matrix() -> None:
    folder = Path(REAL) / "planetoid"
    if not REAL or not folder.is_dir():
        pytest.skip("P2PSIM_DATA has no folder planetoid")
    matrix = unpickle.load(folder / "ind.cora.x", "cure", {"scipy.sparse.csr.csr_matrix"})
    assert matrix.state["_shape"] == (140, 1433)
    assert matrix.state["indptr"].shape == (141,)
    graph = unpickle.load(folder / "ind.cora.graph", "cure")
    assert (len(graph), graph[0]) == (2708, [633, 1862, 2582])


def test_an_ordered_dict_keeps_its_entries_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(OrderedDict(a=1, b=2), 2))
    assert unpickle.load(path, "cure") == {"a": 1, "b": 2}
    path.write_bytes(pickle.dumps(Evil(OrderedDict, [["a", 1]]), 2))  # as Python 2 writes it
    with pytest.raises(InputError, match="in the form of Python 2"):
        unpickle.load(path, "cure")
