"""A run that was stopped and went on has the same bits as one that was never disturbed."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

from p2psim import registry
from p2psim.errors import InputError, PeerError, StoppedError
from p2psim.simulation import checkpoint, run_file
from tests.laws.test_algorithms import CASES, GRAPHS, fits, named
from tests.laws.test_compressors import ALL as COMPRESSORS
from tests.support.programs import made_once
from tests.support.runs import Run, Table, new_folder, read, run_in_threads, run_threads_in
from tests.support.thorough import cover

ROUNDS = 14
# Everything that draws random numbers: split, start, minibatches, compressor, time.
TABLE: Table = {
    "name": "resume",
    "seed": 3,
    "peers": 4,
    "rounds": ROUNDS,
    "data": {"name": "digits", "partition": {"name": "skew", "s": 0.6}, "batch_size": 36},
    "model": {"name": "mlp", "hidden": [8]},
    "learning": {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True}},
    "algorithm": {"name": "d-psgd"},
    "topology": {"name": "ring"},
    "time": {
        "compute": {"name": "shifted-exponential", "period": 2},
        "link": {"latency": 1e-4, "bandwidth": 1e6},
    },
    "eval": {"every": 3, "samples": 50},
}
FORMS = [(form, number) for form in CASES for number in range(len(CASES[form]))]
# A model with what torch itself keeps and draws: running statistics and dropout.
STATEFUL = """
import math
from p2psim.registry import plugin

@plugin("model", "stateful")
class Stateful:
    def shapes(self, inputs, outputs):
        return [(8, math.prod(inputs)), (8,), (8,), (8,), (outputs, 8), (outputs,)]

    def build(self, inputs, outputs):
        from torch import nn
        first = nn.Linear(math.prod(inputs), 8)
        inner = [nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, outputs)]
        return nn.Sequential(nn.Flatten(), first, *inner)
"""
# An algorithm of a user's own that keeps all that state may be.
KEEPER = """
from collections import defaultdict, deque
import numpy as np
import torch
from p2psim.base import Algorithm
from p2psim.registry import plugin

class Memory:
    def __init__(self, d):
        self.mean, self.seen = np.zeros(d), 0

    def take(self, x):
        self.seen += 1
        self.mean += (x - self.mean) / self.seen

@plugin("algorithm", "keeper")
class Keeper(Algorithm):
    requires = ("row-stochastic",)

    def start(self, x, oracle, net):
        self.net, self.memory = net, Memory(x.size)
        self.random = np.random.default_rng(net.rank)
        self.recent, self.table = deque(maxlen=3), defaultdict(int, {"a": 1})
        self.large, self.kinds = 2**80, {1, 2}
        self.buffer = np.zeros((2, x.size), x.dtype)
        self.first, self.second = self.buffer  # two names for the same memory
        self.half = torch.from_numpy(self.buffer)[0]  # and a third
        self.shadow = np.zeros(x.size, x.dtype)
        self.start_of_shadow = torch.from_numpy(self.shadow)[:10]
        self.weights = torch.ones(3)
        self.linear = torch.nn.Linear(2, 1)
        self.scale = np.float32(0.1)

    def consensus(self, x, oracle, net):
        self.memory.take(x)
        self.recent.append(x.copy())
        self.first += x
        self.second -= self.buffer[0]
        self.table[len(self.recent)] += 1
        self.weights *= 1.01
        self.half += 1e-3
        self.start_of_shadow += 1.0
        with torch.no_grad():
            self.linear.weight += self.shadow[0]
        self.linear(torch.ones(2)).backward()
        noise = self.random.standard_normal(x.size).astype(x.dtype) * self.scale
        x = self.net.mix(x + noise * float(self.weights[0]) * 1e-2)
        x += 1e-3 * (self.buffer[1] + self.recent[0] + self.memory.mean.astype(x.dtype))
        x += 1e-4 * (self.shadow + float(self.linear.weight.sum().detach()))
        x += 1e-5 * float(self.linear.weight.grad[0, 0])
        return x * (1 - 1e-6 * sum(self.table.values())) if self.large == 2**80 else x
"""


# A learning rule of a user's own: hooks and fixed random matrices by `bind`, state by `gradient`.
HOOKED = """
import torch
from p2psim.registry import plugin

@plugin("rule", "hooked")
class Hooked:
    def bind(self, module, key):
        generator = torch.Generator().manual_seed(key("feedback") % 2**63)
        linear = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
        self.feedback = [torch.rand(part.weight.shape, generator=generator) for part in linear]
        self.hooks = [
            part.weight.register_hook(lambda g, b=b: self.factor * g * (1 + 0.1 * b))
            for part, b in zip(linear, self.feedback)
        ]
        self.factor = 1.0

    def gradient(self, learner, batch):
        self.factor = 0.99 * self.factor + 0.001 * float(batch.inputs.mean())
        loss = learner.loss(learner.module(batch.inputs), batch)
        learner.g.zero_()
        loss.backward()
        return loss.item()
"""


def table_of(form: str, number: int) -> Table:
    """The experiment with this form of an algorithm."""
    case = CASES[form][number]
    push = GRAPHS["unbalanced-push"]
    graph = {} if fits(form, "ring") else {"peers": push.n, "topology": push.table}
    learning = {"local_steps": case.T, "consensus_steps": case.S}
    return {
        **TABLE,
        "peers": max(TABLE["peers"], case.options.get("k", 0)),
        **graph,
        "algorithm": case.algorithm(named(form)),
        "learning": {"optimizer": {"name": "sgd", **case.optimizer}, **learning},
    }


def interrupted(table: Table, folder: Path, times: int = 2) -> tuple[list[int], Any]:
    """Rounds after which the run was stopped and went on, some times, and what came out."""
    place = new_folder(folder)
    for number, asks in enumerate(range(1, times + 1)):
        with pytest.raises(StoppedError):
            run_threads_in(table, folder, place, resume=number > 0, asks=asks)
        with h5py.File(place / "run.h5", locking=False) as file:
            assert file.attrs["status"] == "stopped"
    made = run_in_threads(table, folder, resume=place)
    with h5py.File(place / "run.h5", locking=False) as file:
        stops = [int(round_) for round_ in file.attrs["resumed"]]
    return stops, made


def assert_same(table: Table, folder: Path, times: int = 2) -> None:
    whole = run_in_threads(table, folder)
    stops, made = interrupted(table, folder, times)
    assert len(set(stops)) == times
    assert max(stops) < table["rounds"]
    here, there = made.datasets(), whole.datasets()
    assert [name for name in here if here[name] != there[name]] == []


@pytest.mark.parametrize(
    ("form", "number"),
    cover(FORMS, lambda form, _: form),
)
def test_every_algorithm(form: str, number: int, tmp_path: Path) -> None:
    assert_same(table_of(form, number), tmp_path)


@pytest.mark.parametrize(
    ("variant", "number"),
    cover(
        itertools.product(["fresh", "stale"], range(len(COMPRESSORS))),
        lambda variant, _: variant,
        lambda _, number: COMPRESSORS[number][0],
    ),
)
def test_every_compressor(variant: str, number: int, tmp_path: Path) -> None:
    name, case = COMPRESSORS[number]
    choco = {"name": "choco-sgd", "gamma": 0.1, "variant": variant}
    assert_same({**TABLE, "algorithm": {**choco, "compressor": {"name": name, **case}}}, tmp_path)


@pytest.mark.parametrize("norm", ["range-bn", "range-evonorm"])
def test_eight_bits_with_their_ranges_and_statistics(norm: str, tmp_path: Path) -> None:
    model = {"name": "convnet", "channels": [2, 4], "norm": norm}
    assert_same({**TABLE, "model": model, "learning": {"precision": "int8"}}, tmp_path)


@pytest.mark.parametrize("name", registry.names("optimizer"))
def test_every_optimizer(name: str, tmp_path: Path) -> None:
    assert_same({**TABLE, "learning": {"optimizer": {"name": name}}}, tmp_path)


@pytest.mark.parametrize("name", registry.names("rule"))
def test_every_learning_rule(name: str, tmp_path: Path) -> None:
    assert_same({**TABLE, "learning": {"rule": name}}, tmp_path)


@pytest.mark.parametrize("name", registry.names("algorithm"))
def test_every_algorithm_is_among_the_forms(name: str) -> None:
    assert name in map(named, CASES)


def test_a_model_that_keeps_statistics_and_draws(tmp_path: Path) -> None:
    (tmp_path / "stateful.py").write_text(STATEFUL)
    assert_same({**TABLE, "model": {"name": "stateful.py:Stateful"}}, tmp_path)


def test_an_algorithm_with_all_kinds_of_state(tmp_path: Path) -> None:
    (tmp_path / "keeper.py").write_text(KEEPER)
    assert_same({**TABLE, "algorithm": {"name": "keeper.py:Keeper"}}, tmp_path)


def test_a_learning_rule_with_hooks_and_state(tmp_path: Path) -> None:
    """A resumed run binds the rule anew; without that it would go on as backpropagation."""
    (tmp_path / "hooked.py").write_text(HOOKED)
    learning = {"rule": "hooked.py:Hooked", "optimizer": {"name": "sgd", "lr": 0.05}}
    table = {**TABLE, "learning": learning}
    assert_same(table, tmp_path)
    plain = run_in_threads({**TABLE, "learning": {**learning, "rule": "bp"}}, tmp_path)
    assert plain.datasets() != run_in_threads(table, tmp_path).datasets()


def test_what_bind_has_set_is_in_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "hooked.py").write_text(HOOKED)
    _, place = stopped(tmp_path, learning={"rule": "hooked.py:Hooked"})
    files = list((place / "checkpoints").glob("*/peer-*"))
    assert len(files) == 8
    for file in files:
        content = file.read_bytes()
        assert b"factor" in content
        assert b"feedback" not in content
        assert b"hooks" not in content


def test_a_bound_array_that_changes_in_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "keeper.py").write_text(BOUND)
    table = {**TABLE, "algorithm": {"name": "keeper.py:Bound"}, "run": {"checkpoint_rounds": 1}}
    with pytest.raises(PeerError, match=r"'total' of Bound was set by `bind` .* set it in `start`"):
        run_in_threads(table, tmp_path)


BOUND = """
import numpy as np
from p2psim.base import Algorithm
from p2psim.registry import plugin

@plugin("algorithm", "bound")
class Bound(Algorithm):
    def bind(self, setting):
        self.total = np.zeros(1)

    def consensus(self, x, oracle, net):
        self.total += 1.0
        return x
"""


def stopped(folder: Path, **changes: Any) -> tuple[Table, Path]:
    """A run that was stopped after two checkpoints."""
    table = {**TABLE, "run": {"checkpoint_rounds": 2}, **changes}
    place = new_folder(folder)
    with pytest.raises(StoppedError):
        run_threads_in(table, folder, place, asks=3)
    assert len(checkpoint.rounds(place)) == 2
    return table, place


def halfway(factory: pytest.TempPathFactory, folder: Path) -> tuple[Table, Path, Run]:
    """The run of `stopped`, made once and copied into `folder`, and the same one undisturbed."""
    table = {**TABLE, "run": {"checkpoint_rounds": 2}}

    def make(place: Path) -> None:
        _, halted = stopped(place)
        run_file.release(halted)  # this process goes on, but not with the run
        run_in_threads(table, place)

    made = made_once(factory, "halfway", make)
    return table, Path(shutil.copytree(made / "run-0", folder / "run-0")), read(made / "run-1")


CHANGES: dict[str, tuple[Table, str]] = {
    "peers": ({"peers": 3}, "peers was 4 and is 3"),
    "seed": ({"seed": 4}, "seed was 3 and is 4"),
    "rounds": ({"rounds": 13}, "rounds was 14 and is 13"),
    "algorithm": ({"algorithm": {"name": "sgp"}}, "algorithm.name was 'd-psgd' and is 'sgp'"),
    "model": ({"model": {"name": "mlp", "hidden": [9]}}, "model.hidden was [8] and is [9]"),
    "rate": (
        {"learning": {"optimizer": {"name": "sgd", "lr": 0.04}}},
        "learning.optimizer.lr was 0.05 and is 0.04",
    ),
    "time": ({"time": {}}, "time.compute was {'name': 'shifted-exponential'"),
    "graph": ({"topology": {"name": "path"}}, "topology.name was 'ring' and is 'path'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_experiment_is_refused(
    name: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    _, place, _ = halfway(tmp_path_factory, tmp_path)
    changes, told = CHANGES[name]
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as refused:
        run_threads_in({**TABLE, **changes}, tmp_path, place, resume=True)
    assert told in str(refused.value)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_lost_peer_file_is_told(
    content: bytes | None, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    table, place, _ = halfway(tmp_path_factory, tmp_path)
    lost = place / "peers" / "peer-00002.h5"
    lost.unlink()
    if content:
        lost.write_bytes(content)
    with pytest.raises(InputError, match=r"peer-00002.h5 cannot be used .* start a new run"):
        run_threads_in(table, tmp_path, place, resume=True)


@pytest.mark.parametrize("source", ["another run", "another peer", "another experiment"])
def test_rows_that_belong_elsewhere_are_told(
    source: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    table, place, _ = halfway(tmp_path_factory, tmp_path)
    rank = 3 if source == "another peer" else 2
    if source == "another run":
        _, other = stopped(tmp_path)
    elif source == "another experiment":
        _, other = stopped(tmp_path, rounds=9)
    else:
        other = place
    name = Path("peers") / f"peer-{rank:05d}.h5"
    (place / "peers" / "peer-00002.h5").write_bytes((other / name).read_bytes())
    with pytest.raises(InputError, match=r"peer-00002.h5 .*it belongs to another run or peer"):
        run_threads_in(table, tmp_path, place, resume=True)


def test_how_often_checkpoints_are_written_may_change(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    _, place, _ = halfway(tmp_path_factory, tmp_path)
    run_in_threads({**TABLE, "run": {"checkpoint_rounds": 5}}, tmp_path, resume=place)


def test_a_changed_graph_file_is_refused(tmp_path: Path) -> None:
    graph = tmp_path / "mine.edgelist"
    graph.write_text("0 1\n1 2\n2 3\n")
    table, place = stopped(tmp_path, topology={"file": "mine.edgelist"})
    graph.write_text("0 1\n1 2\n1 3\n")
    with pytest.raises(InputError, match="the graph's file has changed"):
        run_threads_in(table, tmp_path, place, resume=True)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    place = new_folder(tmp_path)
    run_threads_in(TABLE, tmp_path, place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert not checkpoint.rounds(place)
    run_threads_in(TABLE, tmp_path, place, resume=True)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_state_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "keeper.py").write_text(KEEPER.replace("2**80, {1, 2}", "2**80, [iter(())]"))
    table = {**TABLE, "algorithm": {"name": "keeper.py:Keeper"}, "run": {"checkpoint_rounds": 1}}
    with pytest.raises(Exception, match=r"algorithm.kinds\[0\] holds a tuple_iterator"):
        run_in_threads(table, tmp_path)


def test_peers_keep_the_last_two_checkpoints(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    table, place, _ = halfway(tmp_path_factory, tmp_path)
    assert {len(list(path.iterdir())) for path in (place / "checkpoints").iterdir()} == {4}
    run_in_threads(table, tmp_path, resume=place)
    assert not (place / "checkpoints").exists()
