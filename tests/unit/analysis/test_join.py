"""Runs in one file: run.h5 of a complete run holds its data itself, up to [run] join."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest

from p2psim.analysis import results, tables
from tests.support.programs import invoke
from tests.support.runs import EXPERIMENT
from tests.unit.analysis.conftest import Make, datasets


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("join")
    (folder / "small.toml").write_text(EXPERIMENT)
    return folder


def test_a_complete_run_holds_its_data_itself(make: Make, choco: Path, tmp_path: Path) -> None:
    """run.h5 can be copied alone, and holds what a run with other files holds."""
    whole = make("whole", "run.join=64")
    alone = Path(shutil.copy(whole / "run.h5", tmp_path / "alone.h5"))
    with h5py.File(alone) as file, h5py.File(choco / "run.h5") as other:
        assert datasets(file).keys() == datasets(other).keys()
        for name, dataset in datasets(file).items():
            assert not dataset.is_virtual, name
            if name != "/train/wall":
                assert dataset[...].tobytes() == other[name][...].tobytes(), name
        assert "comment" not in file["train"].attrs
        assert "`p2psim join`" in other["train"].attrs["comment"]
    assert tables.compare(alone, choco).endswith("final vectors are equal bit for bit")
    assert results.read(alone).state == "done"


@pytest.mark.parametrize("command", ["show", "plot", "compare", "join"])
def test_a_run_file_without_its_folder_is_refused(
    command: str, choco: Path, tmp_path: Path
) -> None:
    alone = Path(shutil.copy(choco / "run.h5", tmp_path / "alone.h5"))
    arguments = [command, alone, *[choco] * (command == "compare")]
    ended = invoke(*arguments)
    assert ended.exit_code == 2
    assert "holds no data itself: they are in the folder 'peers' beside it" in ended.output
    assert sorted(tmp_path.iterdir()) == [alone]


def test_a_larger_run_keeps_its_files(make: Make) -> None:
    """Of 4 peers with 602 parameters in float32, /final/x alone has more than 9 kB."""
    with h5py.File(make("small-limit", "run.join=0.009") / "run.h5") as file:
        assert file["final/x"].nbytes > 0.009 * 2**20
        assert file["train/loss"].is_virtual
