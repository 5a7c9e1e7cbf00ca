"""The folder with an experiment in which most tests of this package call the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import Bench, bench_in


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return bench_in(tmp_path, monkeypatch)
