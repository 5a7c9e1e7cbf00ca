"""What `plan` says beforehand is what a run does: traffic of every algorithm, spectral gaps."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from p2psim import registry
from p2psim.experiment import dry_run, plan, scenario, sweep
from p2psim.experiment.dry_run import rehearse
from p2psim.network import neighborhood
from p2psim.network.buffers import HEADER
from p2psim.network.transfer import PeerNeighborhood
from p2psim.simulation import simulation
from tests.support.programs import invoke
from tests.support.runs import Table, run_in_threads
from tests.support.thorough import cover

PEERS = 5
UNDIRECTED: Table = {"name": "star"}
MANY: Table = {"name": "one-peer-exponential"}
TOP_K: Table = {"name": "top-k", "keep": 0.1}
CASES: dict[str, tuple[str | Table, Table]] = {
    "isolated": ("isolated", UNDIRECTED),
    "all-reduce": ("all-reduce", UNDIRECTED),
    "d-psgd": ("d-psgd", UNDIRECTED),
    "d-psgd-cta": ({"name": "d-psgd", "order": "cta"}, MANY),
    "choco-sgd": ({"name": "choco-sgd", "compressor": TOP_K}, UNDIRECTED),
    "choco-sgd-stale": (
        {"name": "choco-sgd", "variant": "stale", "compressor": "sign"},
        UNDIRECTED,
    ),
    "deep-squeeze": ({"name": "deep-squeeze", "compressor": "qsgd"}, UNDIRECTED),
    "sgp": ("sgp", MANY),
    "p2pl": ({"name": "p2pl", "eta_b": 0.1}, UNDIRECTED),
    "p2pl-layer": ({"name": "p2pl", "granularity": "layer"}, {"name": "directed-ring"}),
    "full-sgd": ("full-sgd", UNDIRECTED),
    "k-sgd": ({"name": "k-sgd", "k": 3}, {"name": "complete"}),
    "lgc-sgd": ({"name": "lgc-sgd", "k": 2, "partial": "timing"}, UNDIRECTED),
    "lgc-sgd-complete": (
        {"name": "lgc-sgd", "k": 2, "partial": "timing", "compressor": TOP_K},
        {"name": "complete"},
    ),
    "async-gossip": ({"name": "async-gossip", "window": 2.0}, {"name": "directed-ring"}),
    "choco-sgd-push-sum": (
        {"name": "choco-sgd", "push_sum": True, "compressor": TOP_K},
        {"name": "directed-ring"},
    ),
    "deep-squeeze-push-sum": ({"name": "deep-squeeze", "push_sum": True}, MANY),
}

# all-reduce makes x the same in one go, p2pl in diameter = 2 or 4 rounds of 1 message, not S = 2.
AT_START = {"all-reduce": 1, "p2pl": 1, "p2pl-layer": 2}


def experiment(algorithm: str | Table, topology: Table, rounds: int) -> Table:
    return {
        "name": "plan",
        "peers": PEERS,
        "rounds": rounds,
        "data": {"name": "digits", "batch_size": 16},
        "model": {"name": "mlp", "hidden": [16]},
        "learning": {"consensus_steps": 2},
        "algorithm": algorithm,
        "topology": topology,
        "time": {"compute": "constant"},
        "eval": {"every": 100, "samples": 10},
    }


def test_every_algorithm_has_a_case() -> None:
    planned = {given if isinstance(given, str) else given["name"] for given, _ in CASES.values()}
    assert planned == set(registry.names("algorithm"))


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_rehearsal_sends_what_a_run_sends(name: str, tmp_path: Path) -> None:
    algorithm, topology = CASES[name]
    period = 3 if topology is MANY else 1
    table = experiment(algorithm, topology, rounds=period)
    run = run_in_threads(table, tmp_path)
    for rank in range(PEERS):
        net = rehearse(scenario.load(table, tmp_path), rank).net
        assert run.train["bytes_sent"][rank, -1] == net.bytes_at_start + net.bytes_sent
        assert bool(net.bytes_at_start) == (name in AT_START)
        # In rounds of the same number of messages: how many of them go before the first.
        before = AT_START.get(name, 0)
        assert run.train["messages_sent"][rank, -1] == net.messages_sent * (1 + before)


@pytest.mark.parametrize("name", sorted(CASES))
def test_long_rounds_are_extrapolated_from_shorter_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, topology = CASES[name]
    table = experiment(algorithm, topology, rounds=6)
    table["learning"] = {"local_steps": 13, "consensus_steps": 9}

    def planned() -> dict[str, str]:
        rows = plan.plan(scenario.load(sweep.assign(table, ()), tmp_path))
        return {key: rows[key] for key in ("messages", "traffic", "virtual time")}

    executed = planned()
    monkeypatch.setattr(dry_run, "MOST_STEPS", 6)
    extrapolated = planned()
    seconds = re.compile(r"(?:about )?([\d.]+) s(?:, by the first \d+ rounds)?")
    assert extrapolated.keys() == executed.keys()
    if name == "async-gossip":  # whose messages depend on the steps in a window
        return
    for key, text in executed.items():
        assert seconds.sub(r"\1 s", extrapolated[key]) == seconds.sub(r"\1 s", text)


@pytest.mark.parametrize(
    ("name", "setting"),
    cover(
        itertools.product(
            ["d-psgd", "p2pl", "k-sgd", "lgc-sgd", "async-gossip"],
            ["local_steps", "consensus_steps"],
        )
    ),
)
def test_a_plan_of_long_rounds_executes_few_steps(
    name: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, topology = CASES[name]
    table = experiment(algorithm, topology, rounds=6)
    table["learning"] = {setting: 10**8}
    table["rounds"] = 10**6
    executed: list[str | dry_run.Send | dry_run.Wait] = []
    cut = dry_run.OperationLog.take

    def counted(log: dry_run.OperationLog) -> dry_run.Acts:
        acts = cut(log)
        executed.extend(acts)
        return acts

    monkeypatch.setattr(dry_run.OperationLog, "take", counted)
    plan.plan(scenario.load(table, tmp_path))
    assert 0 < len(executed) < 100 * dry_run.MOST_STEPS


@pytest.mark.parametrize(
    ("name", "window"), cover(itertools.product(sorted(CASES), [neighborhood.WINDOW, 1]))
)
def test_the_rehearsal_knows_what_a_run_receives_into(
    name: str, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's pool has the planned blocks of bytes, and beside them what it sends, and headers."""
    nets: dict[int, PeerNeighborhood] = {}

    class Kept(PeerNeighborhood):
        def __init__(self, wire: Any, *rest: Any) -> None:
            super().__init__(wire, *rest)
            nets[wire.rank] = self

    monkeypatch.setattr(simulation, "PeerNeighborhood", Kept)
    monkeypatch.setattr(neighborhood, "WINDOW", window)
    algorithm, topology = CASES[name]
    table = experiment(algorithm, topology, rounds=6)
    run_in_threads(table, tmp_path)
    for rank, net in nets.items():
        ready = scenario.load(table, tmp_path)
        planned = rehearse(ready, rank).net.blocks
        held = {size: len(kept) for (size, kind), kept in net.pool.arrays.items() if kind == "|u1"}
        # What is compressed lies in such blocks before it is sent, too.
        more = PEERS if ready.experiment.algorithm.compressors() else 0
        # How many models are on their way at a time, only a run tells.
        more += PEERS if name == "async-gossip" else 0
        for size, count in planned.items():
            assert not size or count <= held[size] <= count + more
        sent = {net.bytes_sent // max(net.messages_sent, 1), 4 * ready.parameters}
        beside = {size for size in held.keys() - sent if size > 2 * PEERS * HEADER.size}
        assert beside <= planned.keys()


@pytest.mark.parametrize(
    ("peers", "topology", "gap"),
    [
        (4, "directed-ring", ".29289"),
        (8, "directed-ring", ".07612"),
        (16, "directed-ring", ".01921"),
        (8, "ring", ".19526"),
        (16, "ring", ".05075"),
        (32, "ring", ".01281"),
        (16, "torus", ".40000"),
        (8, "torus", ".50000"),
        (16, "helical", ".40000"),
        (8, "complete", "1.00000"),
    ],
)
def test_spectral_gaps_to_five_digits(peers: int, topology: str, gap: str, tmp_path: Path) -> None:
    table: dict[str, Any] = {**experiment("sgp", {"name": topology}, 1), "peers": peers}
    table["topology"]["weights"] = "uniform-neighbor"
    (tmp_path / "x.toml").write_text(tomli_w.dumps(table))
    said = invoke("plan", tmp_path / "x.toml")
    assert said.exit_code == 0, said.output
    assert re.search(r"spectral gap +0?" + re.escape(gap), said.output), said.output


def test_one_combination_alone(tmp_path: Path) -> None:
    table = {**experiment("d-psgd", {"name": "ring"}, 1), "sweep": {"rounds": [5, 6]}}
    (tmp_path / "x.toml").write_text(tomli_w.dumps(table))
    both, one = (
        invoke("plan", tmp_path / "x.toml", *only).output for only in ([], ["--only", "1"])
    )
    assert both.count("rounds  ") == 2
    assert one == both[both.index("\nrounds=6") :]


def test_the_virtual_time_of_equal_peers(tmp_path: Path) -> None:
    table = experiment("d-psgd", {"name": "ring"}, 4)
    table["time"] = {
        "compute": {"name": "constant", "seconds_per_step": 0.5},
        "link": {"latency": 0.25, "bandwidth": 1e4},
    }
    run = run_in_threads(table, tmp_path)
    said = plan.plan(scenario.load(table, tmp_path))["virtual time"]
    assert said == f"{run.train['time'].max():,.6g} s"


@pytest.mark.parametrize("optimizer", registry.names("optimizer"))
def test_a_plan_imports_neither_torch_nor_mpi(optimizer: str, tmp_path: Path) -> None:
    """It would take a second; every algorithm is planned, with every optimizer."""
    algorithms = {}
    for name, (algorithm, topology) in CASES.items():
        table = experiment(algorithm, topology, rounds=2)
        table["learning"] = {"optimizer": optimizer, "consensus_steps": 1}
        algorithms[name] = table
    code = (
        "import json, sys; from pathlib import Path; from p2psim.experiment import plan, scenario\n"
        "for table in json.loads(sys.argv[1]).values():\n"
        "    plan.plan(scenario.load(table, Path()))\n"
        "print(*{'torch', 'mpi4py'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, json.dumps(algorithms)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "\n"), ended.stdout + ended.stderr


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_algorithm_asks_the_optimizer(name: str, tmp_path: Path) -> None:
    loaded = scenario.load(experiment(*CASES[name], rounds=2), tmp_path)
    assert not plan.unused_optimizer(loaded)
    assert "optimizer" not in plan.plan(loaded)


OWN_STEPS = """
from p2psim.base import Algorithm
from p2psim.registry import plugin

@plugin("algorithm", "own-steps")
class OwnSteps(Algorithm):
    def local(self, x, oracle, net):
        return x - 0.1 * oracle.grad(x)
"""


def test_an_optimizer_that_nobody_asks_is_told(tmp_path: Path) -> None:
    """`plan` always says so, a run where the optimizer is set: it has been swept in vain before."""
    (tmp_path / "own.py").write_text(OWN_STEPS)
    table = experiment("own.py:OwnSteps", {"name": "ring"}, rounds=2)
    file = tmp_path / "own.toml"
    for learning in ({}, {"optimizer": {"name": "sgd", "lr": 0.5}}):
        file.write_text(tomli_w.dumps({**table, "learning": learning}))
        planned = invoke("plan", file)
        assert "optimizer  not used: the algorithm takes steps of its own" in planned.stdout
        out = str(tmp_path / f"out{len(learning)}")
        ran = invoke("run", file, "--debug", "--out", out)
        assert ran.exit_code == 0, ran.output
        assert ("warning: learning.optimizer is not used" in ran.stderr) == bool(learning)
