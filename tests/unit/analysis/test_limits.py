"""Values beyond what can be run, and runs that diverge, are told plainly."""

from pathlib import Path

import numpy as np
import pytest
import tomli_w

from p2psim.analysis import results, tables
from tests.support.programs import invoke
from tests.support.runs import Table, new_folder, run_in_threads

BASE: Table = {
    "name": "limits",
    "peers": 3,
    "rounds": 4,
    "data": {"name": "digits", "batch_size": 16},
    "model": {"name": "mlp", "hidden": [8]},
    "algorithm": "d-psgd",
    "topology": "ring",
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ".."}, "name = '..'"),
        ({"name": "a/b"}, "name = 'a/b'"),
        ({"name": ""}, "name = ''"),
        ({"rounds": 10**12}, "rounds = 1000000000000: give a whole number"),
        ({"seed": 2**63}, "seed = 9223372036854775808"),
        ({"rounds": None, "epochs": 1e300}, "epochs = 1e+300"),
        ({"model": {"name": "mlp", "hidden": [10**8]}}, "2^31 entries"),
        ({"algorithm": "leaves.py:Any"}, "cannot be loaded"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_is_refused(
    command: str, changes: Table, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("leaves.py").write_text("raise SystemExit('bye')\n")
    table = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    Path("x.toml").write_text(tomli_w.dumps(table))
    ended = invoke(command, "x.toml")
    assert ended.exit_code == 2, ended.output
    assert words in ended.output
    assert not Path("runs").exists()


def test_a_run_that_diverged_says_so(tmp_path: Path) -> None:
    place = new_folder(tmp_path)
    with np.errstate(all="ignore"):
        run_in_threads({**BASE, "learning": {"optimizer": {"name": "sgd", "lr": 1e30}}}, tmp_path)
    assert results.read(place).state == "diverged"
    told = "! diverged: the training loss of peers 0, 1 and 2 is not finite from round 2 on (lower"
    assert told in tables.summary(place)


def test_a_run_that_learned_does_not(tmp_path: Path) -> None:
    place = new_folder(tmp_path)
    run_in_threads(BASE, tmp_path)
    assert "!" not in tables.summary(place)
