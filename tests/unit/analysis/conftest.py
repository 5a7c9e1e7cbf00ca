"""Runs of the small experiment in the folder `place`, which each file of tests defines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import h5py
import pytest

from p2psim.launcher import run_requests, runner

Make: TypeAlias = Callable[..., Path]


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """All datasets of a run by name."""
    return {dataset.name: dataset for group in file.values() for dataset in group.values()}


@pytest.fixture(scope="module")
def make(place: Path) -> Make:
    """A run of the small experiment, made once."""

    def made(name: str, *settings: str) -> Path:
        folder = place / name
        if not folder.exists():
            runner.run(run_requests.requests(place / "small.toml", settings, folder), True, None)
        return folder

    return made


@pytest.fixture(scope="module")
def choco(make: Make) -> Path:
    return make("choco")
