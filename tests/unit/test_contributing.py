"""The examples of CONTRIBUTING.md run as they stand there, from outside the package."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.runs import run_in_threads

ROOT = Path(__file__).parents[2]
ROUNDS = 80
BLOCK = re.compile(r"```python\n# (\w+\.py)\n(.*?)```", re.DOTALL)
BASE: dict[str, Any] = {
    "name": "example",
    "peers": 5,
    "rounds": ROUNDS,
    "data": {"name": "digits", "batch_size": 16},
    "model": "linear",
    "learning": {"optimizer": {"name": "sgd", "lr": 0.05}},
    "algorithm": "d-psgd",
    "topology": "ring",
    "eval": {"every": ROUNDS},
}
USES: dict[str, dict[str, Any]] = {
    "gradient_tracking.py": {"algorithm": "gradient_tracking.py:GradientTracking"},
    "half.py": {"algorithm": {"name": "choco-sgd", "compressor": "half.py:Half"}},
    "wheel.py": {"topology": {"file": "wheel.py"}},
    "narrow.py": {"model": "narrow.py:Narrow"},
    "one_class_less.py": {"data": {**BASE["data"], "partition": "one_class_less.py:OneClassLess"}},
}


def examples() -> dict[str, str]:
    """File name -> text of every example."""
    return dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text()))


def test_there_is_an_example_of_each_kind() -> None:
    assert set(examples()) == set(USES)
    assert all(len(text.splitlines()) <= 40 for text in examples().values())


@pytest.mark.parametrize("name", sorted(USES))
def test_an_example_learns(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(examples()[name])
    run = run_in_threads({**BASE, **USES[name]}, tmp_path)
    assert np.mean(run.eval["accuracy"][:, -1]) > 0.75
    if name == "half.py":  # 2 bytes per entry to 2 neighbors in every round
        assert run.train["bytes_sent"][0, -1] == ROUNDS * 2 * 2 * run.parameters


def test_the_readme_shows_the_same_algorithm(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "tracking.py").write_text(block)
    table = {**BASE, "algorithm": "tracking.py:GradientTracking"}
    assert np.mean(run_in_threads(table, tmp_path).eval["accuracy"][:, -1]) > 0.75
