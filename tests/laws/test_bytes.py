"""Traffic is what was sent: every count against formulas of this file, from shapes and graphs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from p2psim import registry
from tests.support.runs import Run, Table, quadratic_table, quadratics, run_in_threads
from tests.support.thorough import cover

HEADER = 24
ROUNDS = 3
# Parameter tensors by hand: 64-24-10, and two 3 x 3 convolutions on 8 x 8 pixels, then 16, then 10.
MODELS: dict[str, tuple[Table, list[int]]] = {
    "mlp": ({"name": "mlp", "hidden": [24]}, [24 * 64, 24, 10 * 24, 10]),
    "cnn": (
        {"name": "cnn", "channels": [3, 5], "hidden": 16},
        [3 * 1 * 9, 3, 5 * 3 * 9, 5, 16 * 5 * 2 * 2, 16, 10 * 16, 10],
    ),
}
SIZES = {"float32": 4, "float64": 8}


def tenth(m: int) -> int:
    """Of m entries, a tenth, but at least one."""
    return max(1, m // 10)


def bits(count: int) -> int:
    """Bytes that hold this many bits."""
    return math.ceil(count / 8)


# What C(x) of one tensor of m entries takes, f bytes a number.
Formula = Callable[[int, int], int]
CODECS: list[tuple[Table, Formula]] = [
    ({"name": "identity"}, lambda m, f: f * m),
    ({"name": "top-k", "keep": 0.1}, lambda m, f: (f + 4) * tenth(m)),
    ({"name": "top-k", "k": 7}, lambda m, f: (f + 4) * min(7, m)),
    ({"name": "top-k", "keep": 0.1, "values": "affine-8"}, lambda m, f: 5 * tenth(m) + 2 * f),
    ({"name": "random-k", "keep": 0.1}, lambda m, f: f * tenth(m) + 8),
    ({"name": "random-k", "k": 7, "unbiased": True}, lambda m, f: f * min(7, m) + 8),
    ({"name": "qsgd", "bits": 4}, lambda m, f: bits(m * 5) + f),
    ({"name": "qsgd", "bits": 8, "biased": True}, lambda m, f: bits(m * 9) + f),
    ({"name": "sign"}, lambda m, f: bits(m) + f),
    ({"name": "affine-8"}, lambda m, f: m + 2 * f),
]
IDS = ["-".join(str(part) for part in table.values()) for table, _ in CODECS]
# These can also take the whole vector as one tensor.
BY_VECTOR = [i for i, (c, _) in enumerate(CODECS) if c["name"] in ("top-k", "random-k", "qsgd")]

# Graph -> out-degrees of 6 peers in each step of the period; all are regular but the star.
GRAPHS: dict[str, tuple[Table, list[list[int]], list[list[int]]]] = {
    "ring": ({"name": "ring"}, [[2] * 6], [[2] * 6]),
    "complete": ({"name": "complete"}, [[5] * 6], [[5] * 6]),
    "star": ({"name": "star"}, [[5, 1, 1, 1, 1, 1]], [[5, 1, 1, 1, 1, 1]]),
    "directed-ring": ({"name": "directed-ring"}, [[1] * 6], [[1] * 6]),
    "one-peer-exponential": ({"name": "one-peer-exponential"}, [[1] * 6] * 3, [[1] * 6] * 3),
    "alternating": (  # 0 -> all others, then all others -> 0
        {"file": "alternating.py", "weights": "out-degree"},
        [[5, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]],
        [[0, 1, 1, 1, 1, 1], [5, 0, 0, 0, 0, 0]],
    ),
}
ALTERNATING = """
import networkx as nx

def graph(n):
    out, back = nx.empty_graph(n, nx.DiGraph), nx.empty_graph(n, nx.DiGraph)
    out.add_edges_from((0, i) for i in range(1, n))
    back.add_edges_from((i, 0) for i in range(1, n))
    return [out, back]
"""


def digits(model: str, algorithm: Table, dtype: str = "float32") -> Table:
    """A short run on real images; 4 peers on a ring, so everyone has two neighbors."""
    return {
        "name": "bytes",
        "peers": 4,
        "rounds": ROUNDS,
        "data": {"name": "digits", "batch_size": 8},
        "model": {**MODELS[model][0], "dtype": dtype},
        "algorithm": algorithm,
        "topology": {"name": "ring"},
        "eval": {"every": ROUNDS},
    }


Counts: TypeAlias = NDArray[np.int64]


def check(run: Run, sent: Counts, received: Counts, payload: int) -> None:
    """Cumulative messages by (peer, round) that all have `payload` bytes."""
    assert run.train["messages_sent"].tolist() == sent.tolist()
    assert run.train["bytes_sent"].tolist() == (payload * sent).tolist()
    assert run.train["bytes_received"].tolist() == (payload * received).tolist()
    assert run.train["header_bytes"].tolist() == (HEADER * sent).tolist()


def test_every_compressor_has_a_formula() -> None:
    known = registry.names("compressor").items()
    package = {name for name, cls in known if cls.__module__.startswith("p2psim.")}
    assert package == {table["name"] for table, _ in CODECS}, "add it to CODECS"


@pytest.mark.parametrize(
    ("number", "model", "dtype"), cover(itertools.product(range(len(CODECS)), MODELS, SIZES))
)
def test_compressed_bytes(number: int, model: str, dtype: str, tmp_path: Path) -> None:
    codec, formula = CODECS[number]
    method = "choco-sgd" if dtype == "float32" else "deep-squeeze"
    algorithm = {"name": method, "gamma": 0.01, "compressor": codec}
    run = run_in_threads(digits(model, algorithm, dtype), tmp_path)
    sizes = MODELS[model][1]
    assert run.parameters == sum(sizes)
    messages = np.tile(2 * np.arange(1, ROUNDS + 1), (4, 1))
    payload = sum(formula(m, SIZES[dtype]) for m in sizes)
    check(run, messages, messages, payload)


@pytest.mark.parametrize("number", BY_VECTOR, ids=[IDS[number] for number in BY_VECTOR])
def test_compressed_bytes_where_the_vector_is_one_tensor(number: int, tmp_path: Path) -> None:
    codec, formula = CODECS[number]
    algorithm = {"name": "choco-sgd", "gamma": 0.01, "compressor": {**codec, "per": "vector"}}
    run = run_in_threads(digits("cnn", algorithm), tmp_path)
    messages = np.tile(2 * np.arange(1, ROUNDS + 1), (4, 1))
    check(run, messages, messages, formula(sum(MODELS["cnn"][1]), 4))


def test_stale_choco_counts_a_message_as_received_when_it_is_used(tmp_path: Path) -> None:
    algorithm = {"name": "choco-sgd", "variant": "stale", "compressor": {"name": "sign"}}
    run = run_in_threads(digits("mlp", algorithm), tmp_path)
    payload = sum(bits(m) + 4 for m in MODELS["mlp"][1])
    sent = np.tile(2 * np.arange(1, ROUNDS + 1), (4, 1))
    check(run, sent, sent - 2, payload)


@pytest.mark.parametrize(
    ("name", "number", "dtype"),
    cover(itertools.product(["choco-sgd", "deep-squeeze"], range(len(CODECS)), SIZES)),
)
def test_a_push_sum_weight_is_one_number_more(
    name: str, number: int, dtype: str, tmp_path: Path
) -> None:
    codec, formula = CODECS[number]
    algorithm = {"name": name, "gamma": 0.01, "compressor": codec, "push_sum": True}
    table = {**digits("mlp", algorithm, dtype), "topology": {"name": "directed-ring"}}
    run = run_in_threads(table, tmp_path)
    messages = np.tile(np.arange(1, ROUNDS + 1), (4, 1))
    payload = sum(formula(m, SIZES[dtype]) for m in MODELS["mlp"][1]) + SIZES[dtype]
    check(run, messages, messages, payload)


@pytest.mark.parametrize(
    ("name", "graph", "steps"), cover(itertools.product(["d-psgd", "sgp"], GRAPHS, [1, 3]))
)
def test_dense_bytes(name: str, graph: str, steps: int, tmp_path: Path) -> None:
    (tmp_path / "alternating.py").write_text(ALTERNATING)
    topology, outgoing, incoming = GRAPHS[graph]
    if (name, graph) == ("d-psgd", "alternating"):  # column-stochastic only
        topology = {**topology, "weights": "uniform-neighbor"}
    table = quadratic_table(
        quadratics(6),
        tmp_path,
        name,
        topology=topology,
        rounds=5,
        consensus_steps=steps,
        local_steps=2,
        dtype="float32",
    )
    run = run_in_threads(table, tmp_path)

    def cumulative(degrees: list[list[int]]) -> Counts:
        """(peer, round): the degrees of all consensus steps so far."""
        by_step = np.array([degrees[t % len(degrees)] for t in range(5 * steps)])
        total: Counts = by_step.cumsum(axis=0)[steps - 1 :: steps].T
        return total

    payload = 4 * 12 + (4 if name == "sgp" else 0)
    check(run, cumulative(outgoing), cumulative(incoming), payload)


@pytest.mark.parametrize("order", ["atc", "cta"])
def test_dense_bytes_of_a_network(order: str, tmp_path: Path) -> None:
    run = run_in_threads(digits("cnn", {"name": "d-psgd", "order": order}), tmp_path)
    messages = np.tile(2 * np.arange(1, ROUNDS + 1), (4, 1))
    check(run, messages, messages, 4 * sum(MODELS["cnn"][1]))


@pytest.mark.parametrize(("peers", "d", "steps"), [(4, 12, 1), (6, 13, 3), (7, 5, 1), (1, 9, 2)])
def test_all_reduce_bytes(peers: int, d: int, steps: int, tmp_path: Path) -> None:
    """Peer i owns entries d i // n to d (i + 1) // n: b of them. It sends the others' entries to
    their owners and its b means to the n - 1 others, once for x at the start, then every step."""
    problem, rounds = quadratics(peers, d=d), 4
    table = quadratic_table(
        problem, tmp_path, "all-reduce", rounds=rounds, local_steps=steps, dtype="float32"
    )
    run = run_in_threads(table, tmp_path)
    edges = [d * i // peers for i in range(peers + 1)]
    means = 1 + steps * np.arange(1, rounds + 1)
    for i in range(peers):
        b = edges[i + 1] - edges[i]
        owners = sum(edges[j + 1] > edges[j] for j in range(peers) if j != i)
        messages = owners + ((peers - 1) if b else 0)
        sent = 4 * ((d - b) + (peers - 1) * b)
        received = 4 * ((peers - 1) * b + (d - b))
        assert run.train["bytes_sent"][i].tolist() == (means * sent).tolist()
        assert run.train["bytes_received"][i].tolist() == (means * received).tolist()
        assert run.train["messages_sent"][i].tolist() == (means * messages).tolist()
        assert run.train["header_bytes"][i].tolist() == (means * messages * HEADER).tolist()
    if d % peers == 0:
        assert run.train["bytes_sent"][0, 0] == means[0] * 4 * d * 2 * (peers - 1) // peers


def test_isolated_peers_send_nothing_and_evaluation_is_not_counted(tmp_path: Path) -> None:
    table = {**digits("mlp", {"name": "isolated"}), "eval": {"every": 1}}
    run = run_in_threads(table, tmp_path)
    for name in ("bytes_sent", "bytes_received", "messages_sent", "header_bytes"):
        assert not run.train[name].any()
