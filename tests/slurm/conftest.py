"""One Slurm for all tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import environment, missing


@pytest.fixture(scope="session", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a Slurm that all commands use from here on."""
    if os.environ.get("P2PSIM_SLURM") != "1":
        pytest.skip("a real Slurm is started by: make test-slurm")
    problem = missing()
    if problem:
        pytest.exit(problem, returncode=1)
    folder = tmp_path_factory.mktemp("slurm")
    command = [sys.executable, "-m", "tests.slurm.cluster", str(folder)]
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper,
    ):
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"ready\n"
        for name, value in environment(folder, os.environ).items():
            patch.setenv(name, value)
        yield folder
