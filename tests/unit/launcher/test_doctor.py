"""p2psim doctor: a line per check, whatever is broken; what is wrong is seen, and only that."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from p2psim.errors import InputError
from p2psim.launcher import mpi_libraries, run_requests, runner
from p2psim.launcher.doctor import examine, finding, machine, mpi, software
from p2psim.launcher.doctor.finding import OK, PROBLEM, WARNING, Examination, Finding
from tests.support.programs import GOOD, Completed, p2psim, run, with_changes, write

LIMIT = 120.0
CHECKS = [
    *("mpiexec", "mpi4py", "launch", "Slurm", "cores", "memory", "shared memory", "leftovers"),
    *("run folder", "file locks", "torch", "data sets"),
]


def doctor(folder: Path, *arguments: object, **variables: str) -> tuple[Completed, dict[str, str]]:
    """The command, and its lines by check."""
    given = ["env", *(f"{name}={value}" for name, value in variables.items())]
    ended = run([*given, *p2psim("doctor", *arguments)], folder, LIMIT)
    assert "Traceback" not in ended.stderr, ended.stderr
    lines = {line[9:24].strip(): line for line in ended.stdout.splitlines()}
    problems = [line for line in lines.values() if line.startswith(PROBLEM)]
    assert ended.code == (2 if problems else 0), ended.stdout
    return ended, lines


def only(findings: Iterable[Finding]) -> Finding:
    """The one that there is."""
    (found,) = findings
    return found


def test_a_line_for_each_check(tmp_path: Path) -> None:
    _, lines = doctor(tmp_path)
    assert list(lines) == CHECKS
    assert {line[:9].strip() for line in lines.values()} <= {OK, WARNING, PROBLEM}
    for check in ("mpiexec", "mpi4py", "launch", "torch"):
        assert lines[check].startswith(OK), lines[check]
    assert "digits" in lines["data sets"]


def test_an_experiment_is_examined_with_it(tmp_path: Path) -> None:
    file = write(tmp_path, with_changes(GOOD, {"peers": 4}))
    _, lines = doctor(tmp_path, file, "--set", "peers=6", "--out", "deep/out")
    assert list(lines) == [*CHECKS[:4], "experiment", *CHECKS[4:]]
    assert "6 peers" in lines["experiment"]
    for check in ("cores", "memory", "shared memory"):
        assert "6 " in lines[check], lines[check]
    assert not (tmp_path / "deep").exists()


def test_what_is_broken_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    text = "raise ImportError('libtorch_cpu.so: version mismatch')"
    (tmp_path / "broken" / "torch" / "__init__.py").write_text(text)
    file = write(tmp_path, with_changes(GOOD, {"data": {"name": "mnist"}, "model": "linear"}))
    paths = os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")])
    ended, lines = doctor(
        tmp_path, file, "--out", "/proc/out", PYTHONPATH=paths, P2PSIM_DATA=str(tmp_path)
    )
    assert ended.code == 2
    for check, fragments in {
        "torch": ["libtorch_cpu.so: version mismatch", "pip install"],
        "experiment": ["train-images-idx3-ubyte", "p2psim data fetch mnist"],
        "run folder": ["/proc cannot hold runs", "--out"],
    }.items():
        assert lines[check].startswith(PROBLEM), lines[check]
        for fragment in fragments:
            assert fragment in lines[check]
    assert "p2psim data fetch: mnist, cifar10" in lines["data sets"]
    for name in ("a9a", "ag-news, planetoid, tiny-shakespeare;", "wikitext-2: download train.txt"):
        assert name in lines["data sets"]
    assert lines["data sets"].index("diabetes") < lines["data sets"].index("found")


def test_a_wrong_experiment_is_a_problem(tmp_path: Path) -> None:
    plan, problems = software.load_experiment(tmp_path / "none.toml", (), None)
    found = only(problems)
    assert (found.level, found.check) == (PROBLEM, "experiment")
    assert "none.toml" in found.text
    assert plan.peers is None


def test_a_check_that_fails_itself_is_a_problem() -> None:
    def broken() -> list[Finding]:
        raise KeyError("unheard of")

    (found,) = finding.run_check("this", broken)
    assert found.level == PROBLEM
    assert "KeyError" in found.text

    def wrong() -> list[Finding]:
        raise InputError("what: cure")

    assert finding.run_check("this", wrong) == [Finding(PROBLEM, "this", "what: cure")]


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    code, _, errors = finding.run_program(
        [sys.executable, "-c", "import time; time.sleep(1000)"], 0.5
    )
    assert (code, "0.5 s" in errors) == (124, True)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("check", [machine.memory, machine.shared_memory])
def test_too_many_peers_for_the_memory(
    check: Callable[[Examination], Iterable[Finding]], tmp_path: Path
) -> None:
    few, many = (only(check(Examination(tmp_path, peers))) for peers in (1, 10**8))
    assert few.level == OK
    assert many.level == PROBLEM
    assert "fewer peers per node" in many.text
    assert "enough for" in only(check(Examination(tmp_path))).text


def test_peers_are_spread_over_the_nodes_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    assert Examination(tmp_path, 100).local_peers == 34


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "1000", "memory.current": "900", "memory.stat": "inactive_file 50"}, 150),
        ({"memory.max": "max", "memory.current": "900", "memory.stat": ""}, float("inf")),
        (
            {
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "400",
                "memory.stat": "cache 3\ntotal_inactive_file 100",
            },
            700,
        ),
        ({}, float("inf")),
    ],
)
def test_what_a_control_group_leaves(files: dict[str, str], free: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert machine.group_limit(tmp_path) == free


def test_leftovers_are_those_that_nobody_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SHARED", tmp_path)
    assert only(machine.leftovers()).level == OK
    names = ["mpich_shm_1_0", "mpich_shm_2_0", "mpich_shm_new", "sm_segment.x.1", "others"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(4096))
        os.utime(tmp_path / name, (0, time.time() if name.endswith("new") else 0))
    with (tmp_path / "mpich_shm_1_0").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    found = only(machine.leftovers())
    mapped.close()
    assert found.level == WARNING
    assert found.text.startswith("2 files")
    assert f"rm {tmp_path}/mpich_shm_* {tmp_path}/sm_segment.*" in found.text
    assert only(machine.leftovers()).text.startswith("3 files")


def test_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    with (tmp_path / "one").open("w") as one, (tmp_path / "one").open("w") as two:
        assert machine.lockable(one.fileno())
        assert not machine.lockable(two.fileno())
    assert machine.locking(True).level == OK
    assert machine.locking(False).level == WARNING
    assert "HDF5_USE_FILE_LOCKING=FALSE" in machine.locking(False).text
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "false")
    assert machine.locking(False).level == OK


@pytest.mark.thorough
def test_what_a_run_takes_on_the_disk(tmp_path: Path) -> None:
    file = write(tmp_path, with_changes(GOOD, {"peers": 2, "rounds": 500}))
    plan, _ = software.load_experiment(file, (), tmp_path / "out")
    runner.run(run_requests.requests(file, (), tmp_path / "out"), True, None)
    files = [tmp_path / "out" / "run.h5", *(tmp_path / "out" / "peers").iterdir()]
    taken = sum(path.stat().st_size for path in files)
    assert 0.7 * taken < machine.disk(plan) < taken  # HDF5 itself takes the rest


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "disk", lambda _: 2**60)
    with pytest.raises(InputError, match="free some space, or give another folder"):
        list(machine.files(Examination(tmp_path)))


def test_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    found = only(mpi.cores(Examination(tmp_path, 3 * mine)))
    assert "OMP_NUM_THREADS=8" in found.text
    assert ("up to 3 on each" in found.text) == (found.level == OK)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP" not in only(mpi.cores(Examination(tmp_path))).text


def test_too_few_cores_of_the_machine(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only")
    one = str(min(os.sched_getaffinity(0)))
    code = (
        "from pathlib import Path; from p2psim.launcher.doctor import finding, mpi;"
        "print(*mpi.cores(finding.Examination(Path('.'), 8)))"
    )
    bound = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{one}]); {code}"],
        capture_output=True,
        text=True,
    )
    assert "warning" in bound.stdout, bound.stderr
    assert "only 1 of" in bound.stdout


SRUN = """#!/bin/sh
{0}
"""


@pytest.mark.parametrize(
    ("srun", "inside", "level", "fragment"),
    [
        (None, False, OK, "no srun"),
        (None, True, PROBLEM, "no srun"),
        ("echo 'cannot contact' >&2; exit 1", True, PROBLEM, "cannot contact"),
        ("echo 'cannot contact' >&2; exit 1", False, OK, "cannot contact"),
        ("printf 'MPI plugin types are...\\n\\tnone\\n\\tpmi2\\n\\tpmix_v5\\n'", True, OK, "pmix"),
        ("printf 'MPI plugin types are...\\n\\tnone\\n'", True, PROBLEM, "no PMI"),
        ("printf 'MPI plugin types are...\\n\\tnone\\n'", False, WARNING, "no PMI"),
    ],
)
def test_slurm(
    srun: str | None,
    inside: bool,
    level: str,
    fragment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if inside:
        monkeypatch.setenv("SLURM_JOB_ID", "1")
    if srun is not None:
        (tmp_path / "srun").write_text(SRUN.format(srun))
        (tmp_path / "srun").chmod(0o755)
    found = only(mpi.slurm())
    assert found.level == level, found
    assert fragment in found.text


@pytest.mark.parametrize(
    ("text", "kind", "title"),
    [
        ("HYDRA build details:\n    Version:      4.1.2\n", "mpich", "MPICH 4.1.2"),
        ("MPICH Version:      5.0.2\nMPICH ABI: 18:2:6", "mpich", "MPICH 5.0.2"),
        ("Intel(R) MPI Library 2021.9 for Linux* OS", "mpich", "Intel MPI 2021.9"),
        ("mpiexec (OpenRTE) 4.1.4", "openmpi", "Open MPI 4.1.4"),
        ("Open MPI v5.0.11, package: Open MPI me@here", "openmpi", "Open MPI 5.0.11"),
        ("Something else 3.1", "", "Something else 3.1"),
    ],
)
def test_libraries_are_known_by_their_own_words(text: str, kind: str, title: str) -> None:
    library = mpi_libraries.Library(text)
    assert (library.kind, library.title) == (kind, title)


def test_checks_stand_in_the_order_of_the_lines(tmp_path: Path) -> None:
    names = [name for name, _ in examine.checks(Examination(tmp_path))]
    assert names == [name for name in CHECKS if name in names]
