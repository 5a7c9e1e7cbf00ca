"""MPI libraries: one that does not fit mpi4py is refused; a defect of one is avoided."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from p2psim.analysis import results
from p2psim.launcher import mpi_libraries, ranks
from p2psim.launcher.doctor.machine import SHARED, files_in_use
from tests.support import foreign_mpi
from tests.support.programs import assert_refused, p2psim, run, write

SOON = 30.0  # seconds; it takes about one
TABLE = {
    "peers": 2,
    "rounds": 5,
    "data": {"name": "digits", "batch_size": 16},
    "model": {"name": "linear"},
    "algorithm": "d-psgd",
    "topology": "ring",
}


def test_the_libraries_here_belong_together(tmp_path: Path) -> None:
    """Else the tests below would show nothing."""
    ended = run(p2psim("run", write(tmp_path, TABLE), "--out", "out"), tmp_path)
    assert ended.code == 0, ended.stderr


def test_many_neighbors_of_which_a_part_repeats(tmp_path: Path) -> None:
    """34 persistent receives and 34 sends that are not: MPICH must not test all of them at once."""
    algorithm = {"name": "p2pl", "eta_d": 0.0}
    file = write(tmp_path, {**TABLE, "peers": 18, "topology": "complete", "algorithm": algorithm})
    ended = run(p2psim("run", file, "--out", "out"), tmp_path)
    assert ended.code == 0, ended.stderr
    assert results.read(tmp_path / "out").state == "done"


def test_the_launcher_refuses_before_it_starts_a_rank(tmp_path: Path) -> None:
    kind = foreign_mpi.other_library()
    python = foreign_mpi.create_environment(tmp_path / "venv")
    mpiexec = foreign_mpi.write_mpiexec(python.parent, kind)
    loaded = mpi_libraries.of_mpi4py()
    command = [str(python), *p2psim("run", write(tmp_path, TABLE), "--out", "out")[1:]]
    ended = run(command, tmp_path, SOON)
    version = mpi_libraries.of_mpiexec(str(mpiexec)).title
    assert_refused(ended.code, ended.stderr, [str(mpiexec), version, loaded.title, "PATH"])
    assert version.startswith(foreign_mpi.TITLES[kind])
    assert not (tmp_path / "out").exists()


def memory() -> set[Path]:
    """What lies in shared memory for a second and no process uses; other tests may run beside."""

    def unused() -> set[Path]:
        there = {path for name in ("mpich_shm_*", "sm_segment.*") for path in SHARED.glob(name)}
        used = files_in_use()
        return {path for path in there if str(path) not in used}

    found = unused()
    if found:
        time.sleep(1)
    return found & unused()


@pytest.mark.parametrize("variables", ["", foreign_mpi.PMI], ids=["mpiexec", "srun"])
def test_ranks_that_would_be_alone_refuse(variables: str, tmp_path: Path) -> None:
    """One of them says so for all; with the variables of srun only MPI can tell."""
    kind = foreign_mpi.other_library()
    mpiexec = foreign_mpi.write_mpiexec(tmp_path, kind, variables)
    command = p2psim("run", write(tmp_path, TABLE), "--out", "out")
    shared = memory()
    ended = run([str(mpiexec), "-n", "2", *command], tmp_path, SOON)
    assert ended.code == 2, ended.stderr
    assert memory() <= shared
    (told,) = ended.messages()
    starter = "as 2" if variables else f"by {foreign_mpi.TITLES[kind]}'s mpiexec"
    for fragment in (starter, mpi_libraries.of_mpi4py().title, "PATH", "MPI4PY_LIBMPI"):
        assert fragment in told
    assert "Traceback" not in ended.stderr
    assert "RuntimeWarning" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_without_an_mpi_library_mpi4py_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, TABLE)
    command = ["env", "MPI4PY_LIBMPI=/nowhere/libmpi.so", *p2psim("run", file, "--out", "out")]
    ended = run(command, tmp_path, SOON)
    assert_refused(ended.code, ended.stderr, ["mpi4py", "/nowhere/libmpi.so", "pip install"])


def test_the_cure_names_the_folder_of_the_right_mpiexec() -> None:
    loaded = mpi_libraries.of_mpi4py()
    beside = shutil.which("mpiexec", path=str(Path(loaded.path).resolve().parents[1] / "bin"))
    if beside is None:
        pytest.skip("this MPI library keeps its mpiexec elsewhere")
    assert f"{Path(beside).parent}" in mpi_libraries.mismatch_message(loaded)
    assert os.path.samefile(ranks.find_mpiexec()[0], beside)


@pytest.mark.parametrize("mpiexec", ["", "other"])
def test_the_doctor_says_so_too(mpiexec: str, tmp_path: Path) -> None:
    python = foreign_mpi.create_environment(tmp_path / "venv")
    if mpiexec:
        foreign_mpi.write_mpiexec(python.parent, foreign_mpi.other_library())
    bare = ["env", f"PATH={python.parent}:/usr/bin:/bin" if mpiexec else "PATH=/nowhere"]
    ended = run([*bare, str(python), "-m", "p2psim", "doctor"], tmp_path, SOON)
    assert ended.code == 2, ended.stdout
    problems = [line for line in ended.stdout.splitlines() if line.startswith("problem")]
    assert len(problems) == 1, ended.stdout
    expected = (
        ("mpi4py", mpi_libraries.of_mpi4py().title, "PATH") if mpiexec else ("mpiexec", "pip")
    )
    for fragment in expected:
        assert fragment in problems[0]
