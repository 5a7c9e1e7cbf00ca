"""p2psim.api.run around a misbehaving plug-in: failures, signals, the process of the caller."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from p2psim import api
from p2psim.errors import InputError, PeerError, StoppedError
from p2psim.launcher import processes, ranks
from tests.support.thorough import cover, thorough
from tests.unit.test_api import TABLE, Table

# Plug-in that misbehaves in its third consensus step, or only in ranks that a launcher has started.
PLUGIN = """
import os, sys, time
from pathlib import Path
from p2psim.base import Algorithm
from p2psim.registry import plugin

LAUNCHER = os.environ.get("P2PSIM_LAUNCHED", "").partition("-")[0]

@plugin("algorithm", "odd")
class Odd(Algorithm):
    number: int = 0      # signal to the process that runs the experiment
    fails: int = 99      # call that fails on peer 2
    prints: str = ""     # to standard error
    scale: float = 1.0
    folder: str = ""

    def start(self, x, oracle, net):
        self.calls = 0
        if self.prints and net.rank == 1:
            print(self.prints, file=sys.stderr, flush=True)

    def consensus(self, x, oracle, net):
        self.calls += 1
        if net.rank == 2 and self.calls == self.fails:
            raise RuntimeError("on purpose")
        if net.rank == 0 and self.calls == 3 and self.number:
            os.kill(int(LAUNCHER or os.getpid()), self.number)
            end = time.monotonic() + (60 if LAUNCHER else 1)
            while time.monotonic() < end and not Path(self.folder, ".stop").exists():
                time.sleep(0.02)
        return net.mix(x) * x.dtype.type(self.scale)
"""
REFUSING = """
import os
if "P2PSIM_LAUNCHED" in os.environ:
    raise ValueError("not in a rank")
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Experiment with the plug-in, by a path relative to the current folder."""
    (tmp_path / "odd.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    return {**TABLE, "algorithm": {"name": "odd.py:Odd"}, "topology": "ring"}


@pytest.mark.parametrize("debug", [True, thorough(False)])
def test_a_peer_that_fails(odd: Table, debug: bool) -> None:
    with pytest.raises(PeerError, match=r"peer 2 on .* of round 4: RuntimeError: on purpose"):
        api.run(odd, set={"algorithm.fails": 4}, debug=debug)
    run = api.load("runs/small")
    assert run.status == "failed"
    assert "on purpose" in run.failures[0]
    assert list(run.train["round"]) == [1, 2, 3]
    assert np.isnan(run.final).all()
    assert list(api.load_sweep("runs/small").status) == ["failed"]
    again = api.run(odd, force=True)  # by ranks, in the folder of threads of this very process
    assert again.status == "done"
    with pytest.raises(InputError, match="another run has replaced"):
        api.load("runs/small") and api.run(odd, force=True, debug=True) and again.final


def test_ranks_that_refuse_give_their_reason(odd: Table) -> None:
    Path("odd.py").write_text(PLUGIN + REFUSING)
    with pytest.raises(InputError, match="cannot be loaded: ValueError: not in a rank"):
        api.run(odd)
    assert not list(Path().glob("runs/*"))


def test_ranks_write_to_the_standard_error_of_python(
    odd: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    api.run(odd, set={"algorithm.prints": "läuft"})
    assert capsys.readouterr().err == "läuft\n"
    api.run(odd, out="bar", progress=True)
    assert "6/6 rounds" in " ".join(capsys.readouterr().err.split())


def test_an_edited_plug_in_is_read_again(odd: Table) -> None:
    first = api.run(odd, out="one", debug=True)
    Path("odd.py").write_text(PLUGIN.replace("scale: float = 1.0", "scale: float = 0.125"))
    second = api.run(odd, out="two", debug=True)
    assert second.experiment["algorithm"]["scale"] == 0.125
    assert np.abs(second.final).max() < np.abs(first.final).max()


@pytest.mark.parametrize(
    ("number", "debug"), cover(itertools.product([signal.SIGINT, signal.SIGTERM], [True, False]))
)
def test_a_signal_stops_the_run_and_reaches_the_caller(
    odd: Table, debug: bool, number: signal.Signals
) -> None:
    received: list[int] = []
    before = {n: signal.getsignal(n) for n in ranks.STOPPING}
    # Set in both cases: commands that other tests call in this process leave handlers behind.
    handler = lambda n, frame: received.append(n)  # noqa: E731
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else handler)
    own = signal.getsignal(number)
    odd = {
        **odd,
        "algorithm": {"name": "odd.py:Odd", "number": int(number), "folder": "runs/small"},
    }
    error = KeyboardInterrupt if number == signal.SIGINT else StoppedError
    try:
        with pytest.raises(error):
            api.run(odd, debug=debug)
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, before[number])
    assert {n: signal.getsignal(n) for n in ranks.STOPPING} == before
    assert received == [number] * (number == signal.SIGTERM)
    stopped = api.load("runs/small")
    assert (stopped.status, stopped.train.sizes["round"]) == ("stopped", 3)
    resumed = api.run(odd, debug=debug, resume=True)
    whole = api.run(odd, set={"algorithm.number": 0}, out="whole", debug=True)
    assert resumed.status == "done"
    assert resumed.final.tobytes() == whole.final.tobytes()
    assert api.run(odd, resume=True).final.tobytes() == whole.final.tobytes()  # nothing is left


@pytest.mark.parametrize("debug", [True, thorough(False)])
def test_an_alarm_of_the_caller_ends_all_peers(odd: Table, debug: bool) -> None:
    """As the limits of pytest-timeout do: an exception out of a handler, in any line."""

    def alarm(number: int, frame: object) -> None:
        raise TimeoutError("enough")

    odd["algorithm"] = {"name": "odd.py:Odd", "number": int(signal.SIGUSR2)}
    before, count = signal.signal(signal.SIGUSR2, alarm), threading.active_count()
    try:
        with pytest.raises(TimeoutError):
            api.run(odd, debug=debug)
    finally:
        signal.signal(signal.SIGUSR2, before)
    end, ended = time.monotonic() + 60, "stopped" if debug else "killed"
    while api.load("runs/small").status != ended or threading.active_count() > count:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert processes.members(os.getpid()) == [os.getpid()]
    assert [path.name for path in Path("runs").iterdir()] == ["small"]
    assert api.run(odd, set={"algorithm.number": 0}, force=True).status == "done"


def test_the_process_of_the_caller_stays_as_it_is(odd: Table) -> None:
    import torch

    threads, handlers = torch.get_num_threads(), [signal.getsignal(n) for n in ranks.STOPPING]
    variables, state = dict(os.environ), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        api.run(odd, out="threads", debug=True)
        api.run(odd, out="ranks")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(os.environ) == variables
    assert [signal.getsignal(n) for n in ranks.STOPPING] == handlers


def test_settings_take_values_of_numpy_and_paths(odd: Table) -> None:
    settings = {
        "seed": np.int64(3),
        "algorithm": {"name": Path("odd.py:Odd"), "scale": np.float32(0.5)},
        "model.hidden": (np.int32(4),),
        "eval.every": np.array(3),
    }
    run = api.run(odd, set=settings, debug=True)
    assert run.path == Path("runs/small")
    assert run.experiment["model"]["hidden"] == [4]
    assert run.experiment["algorithm"]["scale"] == 0.5
    assert (run.experiment["seed"], run.experiment["eval"]["every"]) == (3, 3)
    assert odd["model"] == TABLE["model"]  # the tables of the caller stay as they are
