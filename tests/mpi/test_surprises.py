"""What nobody foresees in one peer alone ends the run with a sentence, and does not hang it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from p2psim.analysis import results
from tests.support.programs import (
    Program,
    Table,
    assert_refused,
    invoke,
    p2psim,
    run,
    under_mpiexec,
    wait_for_rounds,
    write,
)
from tests.support.thorough import thorough

PEERS, VICTIM = 4, 2
ODD = f"""
import os, sys, threading, time
from pathlib import Path
import numpy as np
from p2psim.algorithms.d_psgd import DPSGD
from p2psim.data.digits import Digits
from p2psim.launcher import environment
from p2psim.registry import plugin

AT_FORK = set()  # modules that the fork server had imported
os.register_at_fork(after_in_child=lambda: AT_FORK.update(sys.modules))

@plugin("data", "odd")
class OddDigits(Digits):
    def train(self, indices):
        if environment.mpi_rank() and environment.mpi_rank()[0] == {VICTIM}:
            raise ArithmeticError("no such sample")
        return super().train(indices)

@plugin("algorithm", "odd")
class Odd(DPSGD):
    what: str = "nothing"

    def local(self, x, oracle, net):
        late = oracle.step_count > 1  # after the rounds that are tried before the start
        if self.what == "alike" and late:
            raise ValueError("of all peers")
        if self.what == "breakpoint":
            breakpoint()
        if self.what == "inside":
            time.sleep(1000 * (net.rank == {VICTIM}))
            return net.mix(x)
        while self.what == "loop" and net.rank == {VICTIM} and oracle.step_count:
            pass
        x = super().local(x, oracle, net)
        if net.rank != {VICTIM} and self.what not in ("sleep", "steady", "imports"):
            return x
        for _ in range(20 if self.what == "steady" else 0):
            oracle.grad(x)
            time.sleep(0.4)
        if self.what == "sleep" and late:
            time.sleep(1000)
        if self.what == "imports":
            later = sys.modules.keys() - AT_FORK if "torch" in AT_FORK else {{"torch"}}
            Path(f"imports-{{net.rank}}").write_text(" ".join(later))
        if self.what == "chdir":
            os.chdir("/")
        if self.what == "interrupt" and late:
            raise KeyboardInterrupt
        if self.what == "thread" and late:
            threading.Thread(target=time.sleep, args=(1000,), name="endless", daemon=False).start()
        return {{"short": x[:5], "double": x.astype(float), "none": None}}.get(self.what, x)
"""
SMALL: Table = {
    "peers": PEERS,
    "rounds": 4,
    "data": {"name": "digits", "batch_size": 16},
    "model": "linear",
    "algorithm": "d-psgd",
    "topology": "ring",
    "run": {"checkpoint_rounds": 2},
}
# Root may write everywhere, unless it gives that up.
POWERS = "-dac_override,-dac_read_search,-fowner"
HUMBLE = ["setpriv", "--bounding-set", POWERS, "--inh-caps", POWERS, "--"]


def odd(folder: Path, **changes: object) -> Path:
    """An experiment with the odd plug-ins at hand."""
    (folder / "odd.py").write_text(ODD)
    return write(folder, {**SMALL, **changes})


@pytest.mark.parametrize("way", ["launcher", thorough("mpiexec")])
def test_a_failure_before_the_first_round(way: str, tmp_path: Path) -> None:
    data, peers = {"name": "odd.py:OddDigits", "batch_size": 16}, VICTIM + 1
    command = p2psim("run", odd(tmp_path, data=data, peers=peers))
    command = under_mpiexec(peers, command) if way == "mpiexec" else command
    # Each rank reads its samples itself, where no fork server has read them for all.
    ended = run(command, tmp_path, variables={"P2PSIM_START": "plain"})
    assert ended.code == 3, ended.stderr
    assert f"p2psim: peer {VICTIM} on " in ended.stderr
    assert "before its first round or after its last: ArithmeticError: no such" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("short", "it has returned float32 (5,), not float32 (650,)"),
        thorough("double", "it has returned float64 (650,), not float32 (650,)"),
        thorough("none", "it has returned NoneType, not float32 (650,)"),
    ],
)
def test_what_a_phase_must_not_return(what: str, told: str, tmp_path: Path) -> None:
    file = odd(tmp_path, algorithm={"name": "odd.py:Odd", "what": what})
    ended = invoke("run", file, "--out", tmp_path / "out", "--debug")
    assert ended.exit_code == 3, ended.output
    assert any(f"peer {VICTIM} on " in line and told in line for line in ended.stderr.splitlines())


@pytest.mark.parametrize("debug", [("--debug",), thorough(())], ids=["debug", "ranks"])
def test_an_interrupt_that_a_plug_in_raises_is_a_failure(
    debug: tuple[str, ...], tmp_path: Path
) -> None:
    file = odd(tmp_path, algorithm={"name": "odd.py:Odd", "what": "interrupt"})
    ended = run(p2psim("run", file, "--out", "out", *debug), tmp_path)
    assert ended.code == 3, ended.stderr
    *_, message = ended.messages()
    assert re.match(rf"p2psim: peer {VICTIM} on .* round 3: KeyboardInterrupt \(.*odd.py", message)


@pytest.mark.thorough
def test_a_thread_of_a_plug_in_does_not_keep_the_run_alive(tmp_path: Path) -> None:
    file = odd(tmp_path, algorithm={"name": "odd.py:Odd", "what": "thread"})
    ended = run(p2psim("run", file, "--out", "out"), tmp_path, limit=60)
    assert ended.code == 0, ended.stderr
    assert results.read(tmp_path / "out").state == "done"
    (message,) = ended.messages()
    assert "a peer ends although threads of a plug-in go on (endless, endless): " in message


@pytest.mark.thorough
def test_all_peers_hang(tmp_path: Path) -> None:
    """None waits for another, so that none would look."""
    file = odd(tmp_path, algorithm={"name": "odd.py:Odd", "what": "sleep"}, run={"patience": 1.0})
    ended = run(p2psim("run", file, "--out", "out"), tmp_path)
    assert ended.code == 3, ended.stderr
    assert re.search(r"peer \d on \S+ hangs: in phase 'local' of round 3 for \d+ s", ended.stderr)


@pytest.mark.thorough
def test_a_long_phase_that_gets_on_is_no_hang(tmp_path: Path) -> None:
    """Of 8 s, more than patience and the launcher's grace."""
    algorithm = {"name": "odd.py:Odd", "what": "steady"}
    file = odd(tmp_path, algorithm=algorithm, rounds=1, run={"patience": 1.0})
    ended = run(p2psim("run", file, "--out", "out"), tmp_path)
    assert ended.code == 0, ended.stderr


@pytest.mark.thorough
def test_a_plug_in_may_go_elsewhere(tmp_path: Path) -> None:
    file = odd(tmp_path, algorithm={"name": "odd.py:Odd", "what": "chdir"})
    ended = run(p2psim("run", file, "--out", "out"), tmp_path)
    assert ended.code == 0, ended.stderr


@pytest.mark.thorough
def test_a_forked_rank_imports_nothing(tmp_path: Path) -> None:
    """Every rank would hold a module of its own that the fork server could have shared.

    Only the rank that writes run.h5 imports one of h5py's.
    """
    file = odd(tmp_path, algorithm={"name": "odd.py:Odd", "what": "imports"})
    ended = run(p2psim("run", file, "--out", "out"), tmp_path)
    assert ended.code == 0, ended.stderr
    texts = [(tmp_path / f"imports-{rank}").read_text() for rank in range(PEERS)]
    assert sorted(texts) == [*[""] * (PEERS - 1), "h5py._hl.dims"]


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="no setpriv here")
@pytest.mark.parametrize("way", ["launcher", thorough("mpiexec"), "debug"])
def test_a_run_folder_that_cannot_be_written_to(way: str, tmp_path: Path) -> None:
    file = odd(tmp_path)
    (tmp_path / "out").mkdir(mode=0o555)
    command = p2psim("run", file, "--out", "out", *["--debug"] * (way == "debug"))
    command = under_mpiexec(PEERS, command) if way == "mpiexec" else command
    ended = run([*(HUMBLE if os.geteuid() == 0 else []), *command], tmp_path)
    assert_refused(
        ended.code, "\n".join(ended.messages()), ["cannot write to the run folder", "out'"]
    )


def test_a_fork_server_that_is_killed_at_its_start(tmp_path: Path) -> None:
    command = p2psim("run", odd(tmp_path, peers=2), "--out", "out")
    with Program(command, tmp_path, {"P2PSIM_START": "auto"}) as started:
        home = f"/tmp/p2psim-{os.geteuid()}-{started.process.pid}-"
        line, end = f"-m\0p2psim\0forkserver\0{home}".encode(), time.monotonic() + 30
        found: list[int] = []
        while not found:
            assert time.monotonic() < end
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if line in (folder / "cmdline").read_bytes():
                        found.append(int(folder.name))
        os.kill(found[0], signal.SIGKILL)
        ended = started.end(60)
    assert ended.code == 0, ended.stderr
    reasons = "the server ended at its start|the server could not be started"
    assert re.search(rf"no fork server \(({reasons})\): ranks start one by one\n", ended.stderr)
    assert not list(Path("/tmp").glob(f"{Path(home).name}*"))


@pytest.mark.parametrize("streams", [thorough(">&-"), thorough("2>&-"), "<&- >&- 2>&-"])
def test_closed_streams(streams: str, tmp_path: Path) -> None:
    file = odd(tmp_path)
    command = p2psim("run", file, "--out", "out")
    ended = run(["sh", "-c", f'"$@" {streams}', "sh", *command], tmp_path)
    assert ended.code == 0, ended.stderr
    assert (tmp_path / "out" / "run.h5").exists()


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("alike", "ValueError: of all peers"),
        thorough(
            "breakpoint", "the debugger has ended; breakpoints need a terminal: run with --debug"
        ),
    ],
)
def test_what_all_peers_fail_with_is_said_once(what: str, cause: str, tmp_path: Path) -> None:
    file = odd(tmp_path, algorithm={"name": "odd.py:Odd", "what": what})
    ended = run(p2psim("run", file, "--out", "out"), tmp_path)
    assert ended.code == 3, ended.stderr
    (told,) = ended.messages()
    assert told.count(cause) == 1
    # An MPI library may end a rank before it has recorded its failure.
    peers = re.match(
        r"p2psim: peers? ([\d, and]+) on \S+ failed in phase 'local' of round \d: ", told
    )
    assert peers
    assert set(re.findall(r"\d", peers[1])) <= set("0123")
    shown = run(p2psim("show", "out"), tmp_path).stdout
    assert shown.count(cause) == 1


@pytest.mark.parametrize("way", ["launcher", thorough("mpiexec")])
def test_a_stop_that_a_peer_cannot_hear(way: str, tmp_path: Path) -> None:
    """It ends after seconds, not after [run] patience, which is 600 s."""
    file = odd(tmp_path, algorithm={"name": "odd.py:Odd", "what": "loop"}, rounds=100)
    command = p2psim("run", file, "--out", "out")
    with Program(
        under_mpiexec(PEERS, command) if way == "mpiexec" else command, tmp_path
    ) as program:
        wait_for_rounds(tmp_path / "out", program)
        if way == "mpiexec":  # as Slurm does
            (tmp_path / "out" / ".stop").touch()
        else:
            program.process.send_signal(signal.SIGTERM)
        ended = program.end(30)
    assert ended.code == (3 if way == "mpiexec" else 4), ended.stderr
    assert f"peer {VICTIM} on " in ended.stderr
    assert "hangs: in phase 'local' of round 2 for " in ended.stderr
    with results.open_run(tmp_path / "out") as file:
        assert file.attrs["status"] == ("failed" if way == "mpiexec" else "stopped")


LONG: Table = {"rounds": 100_000, "algorithm": {"name": "odd.py:Odd", "what": "steady"}}


@pytest.mark.thorough
def test_two_runs_at_once_in_one_folder(tmp_path: Path) -> None:
    """One of them runs and the other one is refused, even if both may replace what is there."""
    command = p2psim("run", odd(tmp_path, **LONG), "--out", "out", "--force")
    with Program(command, tmp_path) as one, Program(command, tmp_path) as two:
        end = time.monotonic() + 60
        while one.process.poll() is None and two.process.poll() is None:
            assert time.monotonic() < end, one.text(one.err) + two.text(two.err)
            time.sleep(0.1)
        refused, other = (one, two) if one.process.poll() is not None else (two, one)
        ended = refused.end(1)
        assert ended.code == 2, ended.stderr
        (told,) = ended.messages()
        assert told.startswith("p2psim: a run is going on in ")
        wait_for_rounds(tmp_path / "out", other)
        other.process.send_signal(signal.SIGTERM)
        assert other.end(60).code == 4


@pytest.mark.parametrize("way", ["launcher", thorough("debug")])
def test_a_folder_that_is_deleted_meanwhile(way: str, tmp_path: Path) -> None:
    file = odd(tmp_path, rounds=100_000, run={})
    command = p2psim("run", file, "--out", "out", *["--debug"] * (way == "debug"))
    with Program(command, tmp_path) as program:
        wait_for_rounds(tmp_path / "out", program)
        shutil.rmtree(tmp_path / "out")
        ended = program.end(20)
    assert ended.code == 3, ended.stderr
    (told,) = ended.messages()
    assert "was deleted, or another run has replaced what was in it, while this run" in told
    assert not (tmp_path / "out").exists()
