"""`p2psim submit` without Slurm: the script that it makes, and what bash makes of that."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2psim.launcher import ranks, slurm
from tests.support.programs import GOOD, Bench, assert_refused, bench_in, invoke, write

TEMPLATE = (ranks.launch_folder() / "slurm.batch").read_text()
HEAD = """\
#!/bin/bash
# Job of one run, or of one combination of a [sweep]. p2psim submit replaces the marks that begin
# with an at sign and calls sbatch. In the job, p2psim run starts the ranks with slurm.sh.
#SBATCH --job-name=experiment
#SBATCH --chdir={folder}
#SBATCH --output='runs/a b.slurm-%A_%a.log'
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --time=1-02:30:00
#SBATCH --signal=B:USR1@300
#SBATCH --array=0-5
# After the warning signal or the failure of a node, the job is requeued, resumes its run and
# appends to its log.
#SBATCH --requeue
#SBATCH --open-mode=append
"""
COMMAND = (
    "\n{python} -m p2psim run experiment.toml --out 'runs/a b' --set rounds=3 --resume"
    ' --only "${{SLURM_ARRAY_TASK_ID:-0}}" &\n'
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An experiment of 8 peers, and a folder in which programs stand in for Slurm's."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return bench_in(tmp_path, monkeypatch)


def program(folder: Path, name: str, text: str) -> None:
    """A shell script that stands in for a program."""
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def options(bench: Bench, *given: object) -> dict[str, str]:
    """What the script asks of sbatch."""
    result = invoke("submit", "experiment.toml", "--print", *given)
    assert result.exit_code == 0, result.stderr
    marked = [line for line in result.stdout.splitlines() if line.startswith("#SBATCH --")]
    return dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in marked)


def test_the_script_of_a_sweep(bench: Bench) -> None:
    """As a whole: the launch file as it is, with these lines in place of two."""
    sweep = {"algorithm.gamma": [0.1, 0.2], "seed": [1, 2, 3]}
    write(bench.folder, {**GOOD, "sweep": sweep})
    shape = ("--nodes", 2, "--time", "1-02:30:00", "--signal-before", 300)
    given = ("--out", "runs/a b", "--set", "rounds=3", *shape)
    before = bench.contents()
    result = invoke("submit", "experiment.toml", "--print", *given)
    assert result.exit_code == 0, result.stderr
    head, command = HEAD.format(folder=bench.folder), COMMAND.format(python=sys.executable)
    assert result.stdout.startswith(head)
    assert result.stdout.count(command) == 1
    kept = TEMPLATE.split("@options\n")[1].split('@command --only "${SLURM_ARRAY_TASK_ID:-0}" &\n')
    assert [part in result.stdout for part in kept] == [True, True]
    assert "@" not in result.stdout.replace("@300", "")
    subprocess.run(["bash", "-n"], input=result.stdout, text=True, check=True)
    assert bench.contents() == before


def test_the_script_of_one_run(bench: Bench) -> None:
    assert options(bench) == {
        "job-name": "experiment",
        "chdir": str(bench.folder),
        "output": "runs/experiment.slurm-%j.log",
        "ntasks": "8",
        "signal": "B:USR1@120",
        "requeue": "",
        "open-mode": "append",
    }


def test_a_percent_sign_in_a_folder_means_itself(bench: Bench) -> None:
    assert options(bench, "--out", "50%j")["output"] == "50%%j.slurm-%j.log"


def test_a_sweep_over_peers_has_room_for_the_largest(bench: Bench) -> None:
    write(bench.folder, {**GOOD, "sweep": {"peers": [4, 12, 6]}})
    assert options(bench)["ntasks"] == "12"


@pytest.mark.parametrize(
    ("given", "nodes", "per_node"),
    [
        (("--nodes", 1), "1", "8"),
        (("--nodes", 3), "3", "3"),
        (("--nodes", 8), "8", "1"),
        (("--peers-per-node", 8), "1", "8"),
        (("--peers-per-node", 3), "3", "3"),
        (("--nodes", 4, "--peers-per-node", 3), "4", "3"),
    ],
)
def test_a_core_for_each_peer(
    bench: Bench, given: tuple[object, ...], nodes: str, per_node: str
) -> None:
    found = options(bench, *given)
    assert (found["nodes"], found["ntasks-per-node"]) == (nodes, per_node)
    assert "ntasks" not in found


@pytest.mark.parametrize(
    ("given", "nodes"), [((), "1"), (("--nodes", 2), "2"), (("--peers-per-node", 3), "3")]
)
def test_peers_share_cores(bench: Bench, given: tuple[object, ...], nodes: str) -> None:
    found = options(bench, "--cores-per-node", 2, *given)
    assert (found["nodes"], found["mincpus"]) == (nodes, "2")
    assert not found.keys() & {"ntasks", "ntasks-per-node"}


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        (("--nodes", 0), ["--nodes 0", "from 1 to the 8 peers"]),
        (("--nodes", 9), ["--nodes 9", "from 1 to the 8 peers"]),
        (("--peers-per-node", 9), ["--peers-per-node 9", "from 1 to the 8 peers"]),
        (("--nodes", 2, "--peers-per-node", 3), ["room for 6 of the 8", "leave one"]),
        (("--cores-per-node", 0), ["--cores-per-node 0", "1 or more"]),
        (("--time", "90"), ["--time 90", "HH:MM:SS"]),
        (("--time", "00:60:00"), ["--time 00:60:00", "HH:MM:SS"]),
        (("--time", "00:02:00"), ["--signal-before 120", "fewer seconds or a longer --time"]),
        (("--signal-before", 0), ["--signal-before 0", "from 1 to 65535"]),
        (("--set", "algorithm.gamma=-1"), ["gamma", "-1"]),
    ],
)
def test_mistakes(bench: Bench, given: tuple[object, ...], fragments: list[str]) -> None:
    program(bench.folder, "sbatch", "touch submitted")
    bench.check_refused(*fragments, call=("submit", bench.file, *given))


BREAK = "a\ntouch harmed"


@pytest.mark.parametrize(
    ("given", "fragment"),
    [
        (("--set", f'name="{BREAK}"'), "is not a TOML value"),
        (("--set", 'name="a\\ntouch harmed"'), "name = 'a\\ntouch harmed'"),
        (("--set", 'name="a\\u2028b"'), "name = 'a\\u2028b'"),
        (("--out", BREAK), "'a\\ntouch harmed"),
        (("--out", "a\rtouch harmed"), "'a\\rtouch harmed"),
        (("--set", f"data.name=x{BREAK}"), "is not a TOML value"),
        (("--time", f"01:00:00{BREAK}"), "--time 01:00:00"),
    ],
)
def test_no_line_of_the_script_is_somebody_elses(
    bench: Bench, given: tuple[str, ...], fragment: str
) -> None:
    result = invoke("submit", bench.file, "--print", *given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert fragment in result.stderr


def test_no_line_of_the_script_comes_from_the_folder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.folder / BREAK).mkdir()
    monkeypatch.chdir(bench.folder / BREAK)
    result = invoke("submit", bench.file, "--print")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "remove its line breaks" in result.stderr


@pytest.mark.parametrize("name", ["@command", "@options", "@options @command $(touch harmed)"])
def test_a_mark_of_the_launch_file_in_a_value_stays_as_it_is(bench: Bench, name: str) -> None:
    write(bench.folder, {**GOOD, "name": name})
    assert options(bench)["job-name"] == shlex.quote(name)
    result = invoke("submit", bench.file, "--print")
    assert result.stdout.count(" -m p2psim run ") == 1


def test_a_run_in_the_folder_is_not_touched(bench: Bench) -> None:
    program(bench.folder, "sbatch", "touch submitted")
    (bench.folder / "out").mkdir()
    (bench.folder / "out" / "notes").write_text("mine")
    bench.check_refused("'out'", "--out", call=("submit", bench.file, "--out", "out"))


def test_a_job_is_submitted(bench: Bench) -> None:
    program(bench.folder, "sbatch", "cat > script; echo $* > arguments; echo '4711;cluster'")
    printed = invoke("submit", "experiment.toml", "--print")
    result = invoke("submit", "experiment.toml")
    assert (result.exit_code, result.stdout) == (0, "4711\n")
    assert (bench.folder / "script").read_text() == printed.stdout.removesuffix("\n")
    assert (bench.folder / "arguments").read_text() == "--parsable\n"
    assert (bench.folder / "runs").is_dir()  # for the log


def test_what_sbatch_does_not_take(bench: Bench) -> None:
    program(bench.folder, "sbatch", "echo 'sbatch: error: No partition specified' >&2; exit 1")
    result = invoke("submit", "experiment.toml")
    fragment = "sbatch rejects the job: No partition specified"
    assert_refused(result.exit_code, result.stderr, [fragment])


def test_without_slurm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bench.folder / "bin"))
    result = invoke("submit", "experiment.toml")
    assert_refused(result.exit_code, result.stderr, ["no sbatch", "--print"])


def play(
    bench: Bench, body: str, job: dict[str, str], warn: bool = False, pause: float = 0
) -> tuple[int, str]:
    """Run the script with shell commands for p2psim; (exit code, what scontrol was told).

    With `warn` it is warned as soon as the commands have made the file `begun`. The script pauses
    for so many seconds before it begins to wait.
    """
    program(bench.folder, "scontrol", "echo $* > told")
    text = slurm.script(TEMPLATE, {}, ["sh", "-c", body])
    (bench.folder / "script").write_text(text.replace("while kill", f"sleep {pause}; while kill"))
    environment = {**os.environ, **job}
    with subprocess.Popen(["bash", "script"], cwd=bench.folder, env=environment) as process:
        end = time.monotonic() + 30
        while warn and not (bench.folder / "begun").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        if warn:
            os.kill(process.pid, signal.SIGUSR1)
        code = process.wait(60)
    told = bench.folder / "told"
    return code, told.read_text().strip() if told.exists() else ""


JOB = {"SLURM_JOB_ID": "12"}
TASK = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"}
LISTEN = "trap 'exit {}' USR1; touch begun; for i in $(seq 300); do sleep 0.1; done; exit 9"


@pytest.mark.parametrize("code", [0, 2, 3, 4])
def test_the_job_ends_as_the_run_does(bench: Bench, code: int) -> None:
    """Without a warning also after a 4, which somebody has wanted."""
    assert play(bench, f"exit {code}", JOB) == (code, "")


def test_a_run_that_ends_before_the_job_waits_for_it(bench: Bench) -> None:
    assert play(bench, "exit 3", JOB, pause=0.5) == (3, "")


@pytest.mark.parametrize(("job", "name"), [(JOB, "12"), (TASK, "10_3")], ids=["job", "task"])
def test_after_a_warning_the_job_is_queued_again(
    bench: Bench, job: dict[str, str], name: str
) -> None:
    """A task by its number in the array: SLURM_JOB_ID of one of them is the array's as well."""
    assert play(bench, LISTEN.format(4), job, warn=True) == (4, f"requeue {name}")


def test_a_warning_before_p2psim_listens_does_no_harm(bench: Bench) -> None:
    assert play(bench, "touch begun; exec sleep 30", JOB, warn=True) == (138, "requeue 12")


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_that_ends_by_itself_after_a_warning_is_over(bench: Bench, code: int) -> None:
    assert play(bench, LISTEN.format(code), JOB, warn=True) == (code, "")


@pytest.mark.parametrize(("job", "number"), [(JOB, 0), (TASK, 3)], ids=["job", "task"])
def test_the_run_is_told_which_combination(bench: Bench, job: dict[str, str], number: int) -> None:
    assert play(bench, "echo $0 $1 > only", job) == (0, "")
    assert (bench.folder / "only").read_text() == f"--only {number}\n"
