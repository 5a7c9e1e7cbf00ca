"""Reports of errors by the command line: full disks, wrong variables, plug-ins, limits, Ctrl-C."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pytest

from p2psim.launcher import progress, ranks
from tests.support.programs import GOOD, Program, assert_refused, p2psim, run, with_changes, write

BAD = """from p2psim.base import Algorithm
from p2psim.registry import plugin

@plugin("algorithm", "bad")
class Bad(Algorithm):
    def local(self, x, oracle, net):
        return x if net.rank == 0 else self.fail()

    def fail(self):
        raise RuntimeError("on purpose")
"""


EXITS = BAD.replace("x if net.rank == 0 else self.fail()", "self.fail()").replace(
    'raise RuntimeError("on purpose")', "raise SystemExit(0)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bad.py").write_text(BAD)
    write(tmp_path, with_changes(GOOD, {"peers": 2}))
    return tmp_path


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [("list",), ("--help",), ("plan", "experiment.toml")])
def test_a_full_disk_ends_in_one_sentence(arguments: tuple[str, ...], folder: Path) -> None:
    command = ["/bin/sh", "-c", 'exec "$@" > /dev/full', "sh", *p2psim(*arguments)]
    ended = run(command, folder)
    assert_refused(ended.code, ended.stderr, ("No space left on device", "free the disk"))


def test_a_rank_that_is_no_number(folder: Path) -> None:
    variables = {"PMI_RANK": "abc", "PMI_SIZE": "2"}
    ended = run(p2psim("run", "experiment.toml"), folder, variables=variables)
    assert_refused(ended.code, ended.stderr, ("PMI_RANK = 'abc' is no number", "unset"))


def test_ctrl_c_while_the_command_line_is_imported(folder: Path) -> None:
    """An audit hook interrupts the import of click, before any command is known."""
    hook = (
        "import os, signal, sys\n"
        "def hook(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'click':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(hook)\n"
        "sys.argv = ['p2psim', 'plan', 'experiment.toml']\n"
        "from p2psim import __main__\n"
        "__main__.main()\n"
    )
    ended = run([sys.executable, "-c", hook], folder)
    assert (ended.code, ended.stderr) == (4, "p2psim: stopped\n")


def test_ctrl_c_during_plan(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import time\ndef graph(n):\n    open('begun', 'w').close()\n    time.sleep(60)\n"
    )
    setting = ("--set", "topology={file='slow.py'}")
    with Program(p2psim("plan", "experiment.toml", *setting), folder) as plan:
        end = time.monotonic() + 60
        while not (folder / "begun").exists() and time.monotonic() < end:
            time.sleep(0.05)
        plan.interrupt()
        ended = plan.end(30)
    assert (ended.code, ended.stderr) == (4, "p2psim: stopped\n")


@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["ranks", "threads"])
def test_a_plug_in_that_fails_is_located(debug: tuple[str, ...], folder: Path) -> None:
    more = ("--set", "algorithm='bad.py:Bad'", *debug)
    ended = run(p2psim("run", "experiment.toml", "--out", "out", *more), folder)
    assert ended.code == 3
    *_, message = ended.messages()
    assert message.endswith(f"RuntimeError: on purpose ({folder / 'bad.py'} line 10)")
    assert "Traceback" not in ended.stderr
    shown = run(p2psim("show", "out"), folder).stdout
    assert f"{folder / 'bad.py'} line 10" in shown.replace("\n", "")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_plug_in_that_calls_exit_is_refused(command: str, folder: Path) -> None:
    """The dry run before the start finds this; exit code 0 would look like success."""
    (folder / "bad.py").write_text(EXITS)
    ended = run(p2psim(command, "experiment.toml", "--set", "algorithm='bad.py:Bad'"), folder)
    assert_refused(
        ended.code, ended.messages()[-1], ("SystemExit: 0", f"{folder / 'bad.py'} line 10")
    )


def test_the_traceback_of_a_rank_is_printed_on_request(folder: Path) -> None:
    more = ("--set", "algorithm='bad.py:Bad'")
    ended = run(p2psim("--traceback", "run", "experiment.toml", *more), folder)
    assert ended.code == 3
    for line in ("in local", "in fail", 'raise RuntimeError("on purpose")'):
        assert line in ended.stderr
    assert ended.messages()[-1].endswith("bad.py line 10)")


def test_limits_of_the_shell_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = resource.RLIM_INFINITY
    values = {resource.RLIMIT_NOFILE: (64, 64), resource.RLIMIT_FSIZE: (4096, unlimited)}
    monkeypatch.setattr(resource, "getrlimit", values.__getitem__)
    assert ranks.limits(8) == (
        "; this shell allows at most 64 open files (ulimit -Hn) and files of at most 4,096 bytes "
        "(ulimit -f): raise that"
    )
    values[resource.RLIMIT_NOFILE] = values[resource.RLIMIT_FSIZE] = (64, unlimited)
    values[resource.RLIMIT_FSIZE] = (unlimited, unlimited)
    assert ranks.limits(8) == ""


def test_a_run_that_a_file_limit_ends_names_the_limit(folder: Path) -> None:
    command = ["/bin/sh", "-c", 'ulimit -f 8; exec "$@"', "sh"]
    ended = run([*command, *p2psim("run", "experiment.toml", "--out", "out")], folder)
    assert ended.code == 3
    assert "(ulimit -f): raise that" in ended.messages()[-1]


@pytest.mark.parametrize(
    ("later", "loss", "rate", "printed"),
    [(9, 0.5, "2.0/s", "0.5000"), (0, 1.5e30, "starting", "1.5e+30")],
    ids=["usual", "begun-anew-and-diverged"],
)
def test_progress_shows_rate_and_loss(later: int, loss: float, rate: str, printed: str) -> None:
    bar = progress.Progress("run", lambda: None, shown=False)
    bar.show(10.0, 5, 20, 1.0)
    bar.show(12.0, later, 20, loss)
    assert bar.bar.tasks[0].fields == {"rate": rate, "loss": printed}
