"""A run that gets more rounds has the same bits as one that had them from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import pytest

from p2psim.errors import InputError, StoppedError
from p2psim.simulation import checkpoint
from tests.laws.test_algorithms import CASES
from tests.laws.test_resume import FORMS, TABLE, table_of
from tests.support.programs import invoke, write
from tests.support.runs import Table, new_folder, read, run_in_threads, run_threads_in
from tests.support.thorough import cover

SHORT = 8  # rounds; not one that is evaluated, except as the last round
KEPT: Table = {"rounds": SHORT, "run": {"last_checkpoint": True}}


def differing(one: Any, two: Any) -> list[str]:
    here, there = one.datasets(), two.datasets()
    assert here.keys() == there.keys()
    return [name for name in here if here[name] != there[name]]


@pytest.mark.parametrize(
    ("form", "number"),
    # Every algorithm is resumed in test_resume.py; the added rounds are the same for all.
    cover(FORMS, lambda form, n: (CASES[form][n].timed, CASES[form][n].compressor is not None)),
)
def test_a_complete_run(form: str, number: int, tmp_path: Path) -> None:
    table = table_of(form, number)
    whole = run_in_threads(table, tmp_path)
    place = new_folder(tmp_path)
    run_threads_in({**table, **KEPT}, tmp_path, place)
    assert checkpoint.rounds(place) == [SHORT]
    longer = run_in_threads(table, tmp_path, resume=place)
    assert differing(longer, whole) == []
    assert not checkpoint.rounds(place)
    with h5py.File(place / "run.h5", locking=False) as file:
        assert file.attrs["resumed"].tolist() == [SHORT]
        assert f"rounds = {table['rounds']}\n" in file.attrs["experiment"]


def test_a_run_that_was_stopped(tmp_path: Path) -> None:
    whole = run_in_threads(TABLE, tmp_path)
    place = new_folder(tmp_path)
    with pytest.raises(StoppedError):
        run_threads_in({**TABLE, "rounds": SHORT}, tmp_path, place, asks=2)
    assert differing(run_in_threads(TABLE, tmp_path, resume=place), whole) == []


def test_epochs_may_be_added_too(tmp_path: Path) -> None:
    by_epochs = {key: value for key, value in TABLE.items() if key != "rounds"}
    by_epochs |= {"eval": {"every": 4, "samples": 50}}  # not due in the last round of an epoch
    whole = run_in_threads({**by_epochs, "epochs": 2.0}, tmp_path)
    place = new_folder(tmp_path)
    run_threads_in({**by_epochs, "epochs": 1.0, "run": KEPT["run"]}, tmp_path, place)
    longer = run_in_threads({**by_epochs, "epochs": 2.0}, tmp_path, resume=place)
    assert whole.train["round"].shape[1] > 10
    assert differing(longer, whole) == []


SCHEDULE: Table = {"optimizer": {"name": "sgd", "lr": 0.05, "schedule": "cosine"}}
REFUSED: dict[str, tuple[Table, str]] = {
    "schedule": ({**KEPT, "learning": SCHEDULE}, "its learning rates depend on the length of"),
    "no checkpoint": ({"rounds": SHORT}, "it is complete and has kept no checkpoint"),
    "last evaluation": ({**KEPT, "rounds": 9}, "the last evaluation of a run uses all samples"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_nothing_is_changed(name: str, tmp_path: Path) -> None:
    changes, told = REFUSED[name]
    table, place = {**TABLE, **changes}, new_folder(tmp_path)
    run_threads_in(table, tmp_path, place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=told):
        run_threads_in({**table, "rounds": 14}, tmp_path, place, resume=True)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_damaged_last_checkpoint_loses_no_rows(tmp_path: Path) -> None:
    place = new_folder(tmp_path)
    run_threads_in({**TABLE, **KEPT}, tmp_path, place)
    next(place.glob("checkpoints/*/peer-00001")).write_bytes(b"torn")
    before = (place / "run.h5").read_bytes()
    with pytest.raises(InputError, match="its last checkpoint is missing or damaged"):
        run_threads_in(TABLE, tmp_path, place, resume=True)
    assert (place / "run.h5").read_bytes() == before


def test_resume_remembers_the_settings_of_the_command_line(tmp_path: Path) -> None:
    file = write(tmp_path, {**TABLE, "rounds": SHORT})

    def p2psim(out: str, *options: str) -> str:
        arguments = ["run", str(file), "--out", str(tmp_path / out), "--debug", *options]
        ended = invoke(*arguments)
        assert ended.exit_code == 0, ended.output
        return str(ended.output)

    rate, keep = "--set=learning.optimizer.lr=0.3", "--set=run.last_checkpoint=true"
    p2psim("whole", rate, "--set=rounds=11")
    p2psim("longer", rate, keep)
    told = p2psim("longer", "--resume", "--set=rounds=11")
    assert "--set learning.optimizer.lr=0.3 --set run.last_checkpoint=true" in told
    assert differing(read(tmp_path / "longer"), read(tmp_path / "whole")) == []
    # What is given again wins, and is told no more.
    told = p2psim("longer", "--resume", rate, keep, "--set=rounds=12")
    assert "--resume applies the run's own --set rounds=11 too\n" in told
    assert read(tmp_path / "longer").train["round"].shape[1] == 12
