"""Devices: what may be asked for, and the way of models and gradients to one and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2psim.errors import InputError
from p2psim.launcher import mpi_libraries
from p2psim.launcher.doctor import software
from p2psim.simulation import devices
from tests.support.runs import Table, run_in_threads

TABLE: Table = {
    "name": "test",
    "peers": 3,
    "rounds": 5,
    "data": {"name": "digits", "batch_size": 16},
    "model": {"name": "convnet", "channels": [4, 8], "norm": "batch"},
    "learning": {"precision": "int8", "optimizer": {"name": "sgd", "momentum": 0.9}, "l2": 1e-3},
    "algorithm": {"name": "choco-sgd", "compressor": "affine-8"},
    "topology": {"name": "ring"},
    "eval": {"every": 2},
}


class GPUs:
    """As many as are said to be there."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)


def test_peers_of_a_node_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    GPUs(2, monkeypatch)
    assert [devices.pick("cuda", place) for place in range(4)] == ["cuda:0", "cuda:1"] * 2
    assert devices.pick("auto", 1) == "cuda:1"
    assert devices.pick("cpu", 1) == "cpu"


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    GPUs(0, monkeypatch)
    assert devices.pick("auto", 0) == "cpu"
    with pytest.raises(InputError, match=r"run.device = 'cuda': .* finds no GPU here; give 'cpu'"):
        run_in_threads({**TABLE, "run": {"device": "cuda"}}, tmp_path)
    with pytest.raises(InputError, match=r"run.device = 'gpu': give 'auto' or 'cpu' or 'cuda'"):
        run_in_threads({**TABLE, "run": {"device": "gpu"}}, tmp_path)


def test_a_device_with_memory_of_its_own_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = run_in_threads(TABLE, tmp_path)
    # By this name the processor is a device apart: all that goes to a GPU is copied there and back.
    monkeypatch.setattr(devices, "pick", lambda *_: "cpu:0")
    assert run_in_threads(TABLE, tmp_path).datasets() == plain.datasets()


def test_the_doctor_tells_of_gpus_and_of_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "run_program", lambda *_: (0, "2.13.0 2", ""))
    for aware, text in ((True, "is CUDA-aware"), (None, "does not report")):
        monkeypatch.setattr(mpi_libraries, "cuda_aware", lambda aware=aware: aware)
        (found,) = software.torch()
        assert "2 CUDA devices" in found.text
        assert text in found.text


def test_a_library_is_asked_whether_it_is_cuda_aware(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mpi_libraries.cuda_aware() in (True, False, None)
    missing: Any = mpi_libraries.Library("MPICH", "/nowhere/libmpi.so")
    monkeypatch.setattr(mpi_libraries, "of_mpi4py", lambda: missing)
    assert mpi_libraries.cuda_aware() is None
