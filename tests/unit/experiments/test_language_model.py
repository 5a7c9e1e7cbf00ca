"""The experiment on tiny Shakespeare, shortened: it learns from the published text."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from p2psim.data.files import data_folder
from tests.support.runs import run_in_threads

FILE = Path(__file__).parents[3] / "experiments" / "language_model.toml"


@pytest.mark.thorough
def test_perplexity_falls(tmp_path: Path) -> None:
    if not (data_folder() / "tinyshakespeare" / "input.txt").is_file():
        pytest.skip("P2PSIM_DATA has no tinyshakespeare/input.txt")
    table = tomllib.loads(FILE.read_text())
    table |= {"rounds": 30, "eval": {"every": 10, "samples": 32, "phases": ["consensus"]}}
    run = run_in_threads(table, tmp_path)
    perplexity = run.eval["perplexity"]
    assert perplexity.shape == (4, 3)
    # 67 tokens at random give 67, their frequencies alone about 27.
    assert perplexity[:, 0].max() < 67
    assert perplexity[:, -1].max() < 24
    assert run.eval["mean_model_perplexity"][0, -1] < 24
