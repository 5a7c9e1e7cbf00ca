"""Run the examples of CONTRIBUTING.md as printed there, in files outside the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim import rng
from tests.support.runs import Run, run_in_threads

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ROUNDS, PEERS, SEED = 80, 5, 3
BLOCK = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INNER = re.compile(r"^ +```python\n +# (tests/\S+)\n(.*?)^ +```", re.DOTALL | re.MULTILINE)
EXAMPLES: dict[str, str] = dict(BLOCK.findall(TEXT))
BASE: dict[str, Any] = {
    "name": "example",
    "seed": SEED,
    "peers": PEERS,
    "rounds": ROUNDS,
    "data": {"name": "digits", "batch_size": 16},
    "model": "linear",
    "learning": {"optimizer": {"name": "sgd", "lr": 0.05}},
    "algorithm": "d-psgd",
    "topology": "ring",
    "eval": {"every": ROUNDS},
}
MLP: dict[str, Any] = {"name": "mlp", "hidden": [32]}
IRIS = {"name": "csv_classes.py:CSVClasses", "file": "iris.csv", "batch_size": 16}
USES: dict[str, dict[str, Any]] = {
    "gradient_tracking.py": {"algorithm": "gradient_tracking.py:GradientTracking"},
    "half.py": {"algorithm": {"name": "choco-sgd", "compressor": "half.py:Half"}},
    "wheel.py": {"topology": {"file": "wheel.py"}},
    "narrow.py": {"model": "narrow.py:Narrow"},
    "csv_classes.py": {"data": IRIS},
    "one_class_less.py": {"data": {**BASE["data"], "partition": "one_class_less.py:OneClassLess"}},
    "smoothed.py": {"learning": {**BASE["learning"], "task": "smoothed.py:SmoothedClassification"}},
    "feedback_alignment.py": {
        "learning": {
            "rule": "feedback_alignment.py:FeedbackAlignment",
            "optimizer": {"name": "sgd", "lr": 0.2},
        },
        "model": MLP,
    },
    "gamma_times.py": {
        "algorithm": "isolated",
        "time": {"compute": {"name": "gamma_times.py:GammaTimes", "mean": 0.5}},
    },
    "around_the_globe.py": {"time": {"link": "around_the_globe.py:AroundTheGlobe"}},
}


def run_example(name: str, folder: Path, **sections: Any) -> Run:
    """Run the experiment that uses an example, with all its files in `folder`."""
    (folder / name).write_text(EXAMPLES[name])
    return run_in_threads({**BASE, **USES[name], **sections}, folder)


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(USES)
    assert all(len(text.splitlines()) <= 60 for text in EXAMPLES.values())


@pytest.mark.parametrize("name", sorted(USES))
def test_an_example_learns(name: str, tmp_path: Path) -> None:
    if name == "csv_classes.py":
        write_iris(tmp_path / "iris.csv")
    run = run_example(name, tmp_path)
    measure = "top2_accuracy" if name == "smoothed.py" else "accuracy"
    assert np.mean(run.eval[measure][:, -1]) > 0.75


def write_iris(path: Path) -> None:
    """Write scikit-learn's iris flowers in a random order, the class in the last column."""
    from sklearn.datasets import load_iris

    inputs, classes = load_iris(return_X_y=True)
    rows = np.column_stack([inputs - inputs.mean(axis=0), classes])
    np.savetxt(path, np.random.default_rng(0).permutation(rows), delimiter=",")


def test_the_compressor_sends_two_bytes_per_entry(tmp_path: Path) -> None:
    run = run_example("half.py", tmp_path)
    assert run.train["bytes_sent"][0, -1] == ROUNDS * 2 * 2 * run.parameters  # to 2 neighbors


def test_the_partition_leaves_one_class_to_others(tmp_path: Path) -> None:
    run = run_example("one_class_less.py", tmp_path)
    by_class = run.eval["class_accuracy"][:, -1]  # the unseen class of peer i is class i
    assert run.eval["unseen_accuracy"][:, -1].tolist() == np.diag(by_class).tolist()


def test_the_metric_counts_the_two_best_guesses(tmp_path: Path) -> None:
    run = run_example("smoothed.py", tmp_path)
    assert "accuracy" not in run.eval
    plain = run_in_threads(BASE, tmp_path)
    # Two guesses are right at least as often as one, but for what another loss changes.
    assert np.mean(run.eval["top2_accuracy"]) > np.mean(plain.eval["accuracy"])


def test_the_rule_replaces_the_gradients_below_the_last_layer(tmp_path: Path) -> None:
    once: dict[str, Any] = {"algorithm": "isolated", "rounds": 1, "eval": {"every": 1}}
    run = run_example("feedback_alignment.py", tmp_path, **once)
    learning = {**USES["feedback_alignment.py"]["learning"], "rule": "bp"}
    plain = run_in_threads({**BASE, "model": MLP, "learning": learning, **once}, tmp_path)
    last = 10 * (MLP["hidden"][0] + 1)  # weights and biases of the last layer
    assert np.array_equal(run.x[:, -last:], plain.x[:, -last:])
    assert np.abs(run.x - plain.x)[:, :-last].max() > 1e-3


def test_the_step_times_are_gamma_numbers(tmp_path: Path) -> None:
    run = run_example("gamma_times.py", tmp_path)
    for rank in range(PEERS):
        draws = [rng.generator(SEED, "compute", rank, t).gamma(4.0, 0.125) for t in range(ROUNDS)]
        assert run.train["time"][rank] == pytest.approx(np.cumsum(draws), rel=1e-12)
        assert 0.4 < np.mean(draws) < 0.6


def test_the_link_takes_the_time_of_the_distance(tmp_path: Path) -> None:
    run = run_example("around_the_globe.py", tmp_path)
    a_round = 4e7 / PEERS / 2e8 + 4 * run.parameters / 1.25e9
    assert run.train["time"][:, -1] == pytest.approx(ROUNDS * a_round, rel=1e-9)


def entries(block: str, table: str) -> str:
    """Return the lines that a block adds to a table, without the line `...`."""
    (body,) = re.findall(rf"^{table} = {{\n    \.\.\.\n(.*?)^}}", block, re.DOTALL | re.MULTILINE)
    return str(body)


def enter(path: Path, block: str, *tables: str) -> None:
    """Add the functions of a block and its entries in these tables to a file."""
    text = path.read_text()
    functions, _, _ = block.partition(f"{tables[0]} = ")
    for table in tables:
        head = re.search(rf"^{table}: .* = {{\n", text, re.MULTILINE)
        assert head, f"{path.name} has no table {table}"
        text = text[: head.end()] + entries(block, table) + text[head.end() :]
    (first,) = re.findall(rf"^{tables[0]}: ", text, re.MULTILINE)
    path.write_text(text.replace(first, f"{functions}{first}", 1))


@pytest.mark.thorough
def test_a_built_in_algorithm_takes_four_steps(tmp_path: Path) -> None:
    """Take the four steps in a copy of the checkout, and run its law tests there."""
    blocks = {path: textwrap.dedent(body) for path, body in INNER.findall(TEXT)}
    for part in ("p2psim", "tests", "topologies"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    example = EXAMPLES["gradient_tracking.py"]
    (tmp_path / "p2psim" / "algorithms" / "gradient_tracking.py").write_text(example)
    enter(
        tmp_path / "tests/support/reference.py",
        blocks["tests/support/reference.py"],
        "ALGORITHMS",
    )
    laws = "tests/laws/test_algorithms.py"
    enter(tmp_path / laws, blocks[laws], "CASES", "NEEDS")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"),
            *("-m", "not thorough", "-k", "gradient-tracking", laws),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", result.stdout)[0]) > 10


def test_the_readme_shows_the_same_algorithm(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "@plugin" in block]
    (tmp_path / "tracking.py").write_text(block)
    table = {**BASE, "algorithm": "tracking.py:GradientTracking"}
    assert np.mean(run_in_threads(table, tmp_path).eval["accuracy"][:, -1]) > 0.75
