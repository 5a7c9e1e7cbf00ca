"""Compute models: pure functions with the means that they promise; what they refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from p2psim import registry
from p2psim.base import Setting
from p2psim.errors import InputError
from p2psim.experiment import config, scenario
from tests.support.programs import GOOD, Bench, with_changes, write
from tests.support.runs import Table
from tests.support.texts import TINY
from tests.support.thorough import THOROUGH, thorough

DRAWS = 20_000 if THOROUGH else 5_000


def setting(peers: int = 4, seed: int = 3, folder: Path = Path()) -> Setting:
    return Setting(
        seed=seed,
        peers=peers,
        local_steps=1,
        batch_sizes=[8] * peers,
        timed=True,
        instant=True,
        folder=folder,
        operations=lambda rank: 1e6 * (rank + 1),
        linked=np.ones((peers, peers), dtype=bool),
        edges={},
    )


def model(given: Table, bound: Setting | None = None) -> Any:
    """The compute model of a [time] section, ready for use."""
    made, _ = config.Builder(Path()).plugin("compute", given, "time.compute")
    made.bind(bound or setting())
    return made


# Name and parameters, mean and standard deviation.
RANDOM: list[tuple[Table, float, float]] = [
    ({"name": "exponential", "mean": 0.2}, 0.2, 0.2),
    ({"name": "shifted-exponential", "shift": 0.05, "mean": 0.02}, 0.07, 0.02),
    ({"name": "pareto", "minimum": 0.3, "shape": 4.0}, 0.4, 0.3 * math.sqrt(4 / 2) / 3),
    (
        {"name": "lognormal", "median": 2.0, "sigma": 0.5},
        2 * math.exp(0.125),
        2 * math.exp(0.125) * math.sqrt(math.expm1(0.25)),
    ),
    ({"name": "sum", "of": [{"name": "exponential"}, {"name": "exponential"}]}, 2, math.sqrt(2)),
    ({"name": "slow-peers", "peers": [0], "factor": 3.0, "of": {"name": "exponential"}}, 3, 3),
]


@pytest.mark.parametrize(("given", "mean", "deviation"), RANDOM, ids=lambda v: str(v)[:30])
def test_means_and_deviations(given: Table, mean: float, deviation: float) -> None:
    made = model(given)
    drawn = np.array([made.seconds(0, step) for step in range(DRAWS)])
    assert abs(drawn.mean() - mean) < 4 * deviation / math.sqrt(DRAWS)
    assert abs(drawn.std() / deviation - 1) < 0.1


@pytest.mark.parametrize("draws", [20_000, thorough(200_000)])
def test_the_fastest_seven_of_ten(draws: int) -> None:
    """I17: E X_(7) / E X_(10) = 9061 / 13681 for 0.05 + Exp(mean 0.02)."""
    made = model({"name": "shifted-exponential", "shift": 0.05, "mean": 0.02}, setting(peers=10))
    sums = np.zeros(10)
    for step in range(draws):
        sums += sorted(made.seconds(rank, step) for rank in range(10))
    assert abs(sums[6] / sums[9] - 9061 / 13681) < 0.9 / math.sqrt(draws)
    assert abs(sums[6] / draws - 9061 / 126000) < 4 * 0.0086869 / math.sqrt(draws)
    assert abs(sums[9] / draws - 13681 / 126000) < 4 * 0.0248979 / math.sqrt(draws)


@pytest.mark.parametrize(("given", "_mean", "_deviation"), RANDOM, ids=lambda v: str(v)[:30])
def test_a_pure_function_of_seed_rank_and_step(
    given: Table, _mean: float, _deviation: float
) -> None:
    one, other = model(given), model(given)
    there = [(rank, step) for rank in range(4) for step in range(50)]
    forth = [one.seconds(*place) for place in there]
    assert forth == [other.seconds(*place) for place in reversed(there)][::-1]
    assert len(set(forth)) == len(forth)
    assert forth != [model(given, setting(seed=4)).seconds(*place) for place in there]


@pytest.mark.parametrize("name", ["exponential", "shifted-exponential", "pareto", "lognormal"])
def test_a_period_keeps_the_draw(name: str) -> None:
    made = model({"name": name, "period": 10})
    drawn = [made.seconds(1, step) for step in range(40)]
    assert [len(set(drawn[k : k + 10])) for k in range(0, 40, 10)] == [1] * 4
    assert len(set(drawn)) == 4


def test_operations_over_the_rate_of_a_device() -> None:
    made = model({"name": "flops", "rate": [1e6, 1e6, 1e6, 2e6]})
    assert [made.seconds(rank, 7) for rank in range(4)] == [1, 2, 3, 2]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "constant", "seconds_per_step": [1.0, 2.0]}, "2 entries for 4 peers"),
        ({"name": "flops", "rate": [1.0]}, "1 entries for 4 peers"),
        ({"name": "slow-peers", "peers": [4]}, "4 is no rank; there are peers 0 to 3"),
        ({"name": "slow-peers"}, "time.compute.peers is missing"),
        ({"name": "slow-peers", "peers": [1], "first": 5, "last": 2}, "2 is before first = 5"),
        ({"name": "slow-peers", "peers": [1], "factor": 0.5}, "a number >= 1"),
        ({"name": "sum", "of": []}, "a list of names"),
        ({"name": "sum", "of": ["exponentail"]}, "exponential"),
        ({"name": "trace", "file": "none.csv"}, "there is no file"),
        ({"name": "trace", "file": "text.csv"}, "text.csv cannot be read"),
        ({"name": "trace", "file": "ragged.csv"}, "row 3 has 1 fields"),
        ({"name": "trace", "file": "column.csv"}, "no column 'seconds'; give peer, seconds"),
        ({"name": "trace", "file": "short.csv"}, "no row for peer 2"),
        ({"name": "trace", "file": "negative.csv"}, "seconds must be finite numbers >= 0"),
        ({"name": "trace", "file": "endless.csv"}, "seconds must be finite numbers >= 0"),
        ({"name": "trace", "file": "blank.csv"}, "its first line must name the columns peer, "),
        ({"name": "trace", "file": "records.h5"}, "no column 'peer'"),
        ({"name": "trace", "file": "rank.csv"}, "7 is no rank"),
        ({"name": "trace", "file": "empty.csv"}, "has no rows"),
        ({"name": "trace", "file": "twice.csv"}, "names 'seconds' twice"),
        ({"name": "trace", "file": "damaged.h5"}, "damaged.h5 cannot be read"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_what_is_refused(given: Table, says: str, tmp_path: Path) -> None:
    files = {
        "text.csv": "peer,seconds\n0,one\n",
        "ragged.csv": "peer,seconds\n0,1\n1\n",
        "column.csv": "peer,time\n0,1\n",
        "short.csv": "peer,seconds\n0,1\n1,1\n",
        "negative.csv": "peer,seconds\n0,1\n1,1\n2,1\n3,-1\n",
        "endless.csv": "peer,seconds\n0,1\n1,1\n2,1\n3,inf\n",
        "blank.csv": "\n",
        "twice.csv": "peer,seconds,seconds\n0,1,2\n",
        "rank.csv": "peer,seconds\n7,1\n",
        "empty.csv": "peer,seconds\n",
        "damaged.h5": "no HDF5",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with h5py.File(tmp_path / "records.h5", "w") as file:
        file["peer"] = np.zeros(4, [("peer", "i4"), ("seconds", "f8")])
    with pytest.raises(InputError) as raised:
        model(given, setting(folder=tmp_path))
    assert says in str(raised.value)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "lognormal", "sigma": 1e4},
        {"name": "pareto", "shape": 1e-6},
        {"name": "exponential", "mean": 1.7e308},
    ],
    ids=lambda given: str(given["name"]),
)
def test_a_step_takes_a_finite_time(given: Table) -> None:
    made = model(given)
    with pytest.raises(InputError, match="more seconds than a number can hold"):
        [made.seconds(0, step) for step in range(50)]


def test_a_trace_from_a_spreadsheet_with_columns_of_its_own(tmp_path: Path) -> None:
    rows = "".join(f"node{i}, {i}, {i + 1}.5\n" for i in range(4))
    (tmp_path / "sheet.csv").write_text("host,peer,seconds\n" + rows, encoding="utf-8-sig")
    made = model({"name": "trace", "file": "sheet.csv"}, setting(folder=tmp_path))
    assert [made.seconds(rank, 3) for rank in range(4)] == [1.5, 2.5, 3.5, 4.5]


def test_a_round_of_async_gossip_must_have_an_end(tmp_path: Path) -> None:
    (tmp_path / "still.csv").write_text("peer,seconds\n" + "".join(f"{i},0\n" for i in range(8)))
    table = with_changes(GOOD, {"algorithm": "async-gossip", "time": STILL})
    bench = Bench(tmp_path, table)
    bench.check_refused("local step 0 of peer", "more than 0 s", call=("plan", bench.file))
    many = write(tmp_path, with_changes(table, {"time": {"compute": "flops"}}), "many.toml")
    bench.check_refused(
        "algorithm.window = 1: peer", "in a round; give at most", call=("plan", many)
    )


@pytest.mark.parametrize(
    "time",
    [
        {"compute": {"name": "constant", "seconds_per_step": 1e308}},
        {"compute": "constant", "link": {"latency": 1e308}},
        {"compute": "constant", "link": {"bandwidth": 1e-308}},
    ],
    ids=["work", "latency", "bandwidth"],
)
def test_virtual_time_is_finite(time: Table, tmp_path: Path) -> None:
    bench = Bench(tmp_path, with_changes(GOOD, {"time": time, "rounds": 5}))
    bench.check_refused("virtual time has grown beyond", "shorter", call=("plan", bench.file))


STILL: Table = {"compute": {"name": "trace", "file": "still.csv"}}
MODELS: list[tuple[Table, tuple[int, ...]]] = [
    ({"name": "linear"}, (1, 8, 8)),
    ({"name": "mlp", "hidden": [32, 16]}, (1, 8, 8)),
    ({"name": "cnn", "channels": [4, 8]}, (3, 13, 9)),
    ({"name": "vector"}, (7,)),
    ({"name": "vgg11"}, (3, 32, 32)),
    ({"name": "vgg11", "head": "hidden"}, (3, 32, 32)),
    ({"name": "convnet"}, (1, 8, 8)),
    ({"name": "resnet", "norm": "batch"}, (3, 32, 32)),
    ({"name": "resnet", "depth": 14, "width": 6}, (1, 28, 28)),
    ({"name": "resnet18", "width": 4}, (3, 64, 64)),
    ({"name": "transformer", "width": 12, "heads": 3, "ff": 20, "blocks": 3}, (17,)),
    ({"name": "decoder-transformer", "width": 12, "heads": 3, "ff": 20, "blocks": 3}, (17,)),
    ({"name": "distilbert", "path": str(TINY), "from_scratch": True}, (17,)),
    ({"name": "logistic-regression"}, (17,)),
    ({"name": "fm", "dim": 3}, (17,)),
    ({"name": "deepfm", "dim": 3, "hidden": [7, 5]}, (17,)),
    ({"name": "dcn", "dim": 3, "hidden": [7, 5], "cross": 2}, (17,)),
    ({"name": "afn", "dim": 3, "hidden": [7, 5], "neurons": 9}, (17,)),
    ({"name": "nerf", "depth": 3, "width": 6, "coarse_samples": 5, "fine_samples": 0}, (6,)),
]
# Products of a model that torch does not count, because they are no matrix products; negative: that
# the model does not count.
ELEMENTWISE = {
    "vector": 7,
    "logistic-regression": 17,  # a weight for each field
    "fm": 17 + 17 * 3 + 3,  # and squares of all entries and of the entries of their sum
    "deepfm": 17 + 17 * 3 + 3,
    "dcn": 2 * 17 * 3,  # the multiple of the embeddings in each cross layer
    "afn": 17,
    "nerf": -5 * 3,  # colors times weights, for each depth
}
OUTPUTS = {"nerf": 3, **dict.fromkeys(ELEMENTWISE.keys() - {"nerf"}, 1)}


def test_every_model_that_counts_operations_is_here() -> None:
    """A forward pass of a graph model is one of all samples, whose number it does not know."""
    models = registry.names("model")
    counting = {
        name
        for name, cls in models.items()
        if getattr(cls, "samples", "") not in ("nodes", "pairs")
    }
    assert {given["name"] for given, _ in MODELS} == counting


@pytest.mark.parametrize(("given", "shape"), MODELS, ids=lambda v: str(v)[:30])
def test_operations_are_those_that_torch_counts(given: Table, shape: tuple[int, ...]) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    made, _ = config.Builder(Path()).plugin("model", given, "model")
    ids = made.samples in ("tokens", "fields")
    made.vocabulary = {"tokens": 100, "fields": [4] * 17}.get(made.samples, 0)
    outputs = OUTPUTS.get(given["name"], 10)
    module = made.build(shape, outputs)
    # Torch counts an attention's products only where it does them one by one.
    with (
        FlopCounterMode(display=False) as counted,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        module(torch.zeros(2, *shape, dtype=torch.int64 if ids else torch.float32))
    elementwise = ELEMENTWISE.get(given["name"], 0)
    assert counted.get_total_flops() == 2 * 2 * (made.macs(shape, outputs) - elementwise)


def test_a_model_that_does_not_count_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from p2psim.registry import plugin\n"
        "@plugin('model', 'own')\n"
        "class Own:\n"
        "    def shapes(self, inputs, outputs):\n"
        "        return [(outputs, 64)]\n"
    )
    table: Table = {
        "name": "x",
        "peers": 4,
        "rounds": 1,
        "data": {"name": "digits", "batch_size": 8},
        "model": {"name": "own.py:Own"},
        "algorithm": "d-psgd",
        "topology": {"name": "ring"},
        "time": {"compute": "flops"},
    }
    with pytest.raises(InputError, match="needs a model that counts its operations"):
        scenario.load(table, tmp_path)
