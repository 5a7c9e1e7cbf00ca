"""Local steps by rule dfa against those by bp, the epoch of a graph network, and a reader."""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from p2psim.data.criteo import Criteo
from p2psim.experiment import scenario
from p2psim.experiment.holdings import Holdings
from p2psim.network.clock import Clock
from p2psim.simulation import allocator
from p2psim.simulation.flat_model import FlatModel
from p2psim.simulation.minibatches import Batches, Samples
from p2psim.simulation.oracle import MinibatchOracle

IMAGES = f"{Path(__file__).parent / 'random_images.py'}:RandomImages"
# Name -> data, model, steps of a block. The sizes are those of the experiments of dfa.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "MLP": (
        {"name": IMAGES, "channels": 1, "side": 28, "batch_size": 64},
        {"name": "mlp", "hidden": [128, 128, 128], "activation": "tanh"},
        50,
    ),
    "transformer": (
        {"name": "text", "file": "letters.txt", "batch_size": 32},
        {"name": "decoder-transformer"},
        5,
    ),
    "ResNet-20": (
        {"name": IMAGES, "channels": 3, "side": 32, "batch_size": 16},
        {"name": "resnet"},
        2,
    ),
}
BLOCKS = 25
CORA = {"nodes": 2708, "edges": 5278, "features": 1433, "classes": 7, "entries": 18}
ROWS = 300_000  # of the file of clicks


def local_step(folder: Path, data: Any, model: Any, rule: str) -> Callable[[], Any]:
    """Return the local step of one peer with momentum."""
    table = {
        "name": "step",
        "peers": 1,
        "rounds": 1,
        "data": data,
        "model": model,
        "learning": {"rule": rule, "optimizer": {"name": "sgd", "lr": 1e-4, "momentum": 0.9}},
        "algorithm": {"name": "isolated"},
        "topology": {"name": "complete"},
    }
    setup = scenario.load(table, folder)
    holdings = Holdings(setup)
    holdings.bind_task(0)
    peer = FlatModel(setup, 0)
    opened = setup.experiment.data
    samples = Samples(opened, holdings.train(0), torch.float32, "cpu")
    batches = Batches(opened, samples, setup.batch_size(0), 1, 0)
    oracle = MinibatchOracle(setup, peer, batches, Clock(), alive=lambda: None)
    return lambda: oracle.local_step(peer.x)


def seconds(step: Callable[[], Any], steps: int) -> float:
    """Return the seconds of a step, mean of `steps`."""
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - began) / steps


def rules(folder: Path) -> list[dict[str, Any]]:
    """Measure the ratio of a dfa step to a bp step for each model, in interleaved blocks.

    Two peers by each rule, made in mirrored order: the peer that is made first has other memory,
    which changes the time of a step by one hundredth.
    """
    letters = np.random.default_rng(1).integers(97, 123, 50_000).astype(np.uint8)
    (folder / "letters.txt").write_bytes(letters.tobytes())
    rows = []
    for name, (data, model, steps) in MODELS.items():
        peers = [local_step(folder, data, model, rule) for rule in ("bp", "dfa", "dfa", "bp")]
        for step in peers:
            seconds(step, steps)
        times = np.array([[seconds(step, steps) for step in peers] for _ in range(BLOCKS)])
        exact, ours = times[:, [0, 3]].mean(axis=1), times[:, [1, 2]].mean(axis=1)
        ratio = float(np.median(ours / exact))
        ms = f"dfa {np.median(ours) * 1e3:.2f} ms / bp {np.median(exact) * 1e3:.2f} ms"
        rows.append(
            {"name": f"{name} step, {ms}", "value": ratio, "bound": "<= 1.0", "ok": ratio <= 1.0}
        )
    return rows


def graph_epoch(folder: Path) -> list[dict[str, Any]]:
    """Measure an epoch of a GCN by dfa on a random graph of Cora's size, in ms."""
    write_graph(folder)
    data = {"name": "planetoid", "graph": "ind.random"}
    step = local_step(folder, data, {"name": "gcn"}, "dfa")
    seconds(step, 20)
    ms = 1e3 * float(np.median([seconds(step, 10) for _ in range(BLOCKS)]))
    name = "GCN epoch on a graph of Cora's size, ms"
    return [{"name": name, "value": ms, "bound": "<= 6", "ok": ms <= 6}]


def write_graph(folder: Path) -> None:
    """Write the files of a random graph of Cora's size."""
    from scipy.sparse import csr_matrix

    random, nodes = np.random.default_rng(1), CORA["nodes"]
    features = np.zeros((nodes, CORA["features"]), np.float32)
    for row in features:
        row[random.choice(row.size, CORA["entries"], replace=False)] = 1
    labels = np.eye(CORA["classes"], dtype=np.int32)[random.integers(0, CORA["classes"], nodes)]
    ends = random.integers(0, nodes, (CORA["edges"], 2))
    lists: dict[int, list[int]] = {node: [] for node in range(nodes)}
    for i, j in ends.tolist():
        lists[i].append(j)
    known, train = nodes - 1000, 140
    parts = {
        **{"x": csr_matrix(features[:train]), "y": labels[:train]},
        **{"allx": csr_matrix(features[:known]), "ally": labels[:known]},
        **{"tx": csr_matrix(features[known:]), "ty": labels[known:], "graph": lists},
    }
    for name, part in parts.items():
        (folder / f"ind.random.{name}").write_bytes(pickle.dumps(part, protocol=2))
    test = "\n".join(map(str, range(known, nodes)))
    (folder / "ind.random.test.index").write_text(test)


def reader(folder: Path) -> list[dict[str, Any]]:
    """Measure the rows a second of reading clicks into ids, after the file has been opened."""
    random = np.random.default_rng(1)
    lines = [
        "\t".join(
            [str(i % 2), *map(str, random.integers(0, 500, 13))]
            + [f"{value:08x}" for value in random.integers(0, 2000, 26)]
        )
        for i in range(3000)
    ]
    (folder / "clicks.txt").write_text("\n".join(lines * (ROWS // len(lines))) + "\n")
    data: Any = Criteo(file="clicks.txt", test_share=0.1, validation_share=0.0)
    data.open(str(folder))
    rows = np.arange(len(data.labels()))
    rate = float(np.median([rows.size / seconds(lambda: data.train(rows), 1) for _ in range(3)]))
    name, bound = "reader of clicks, 1000 rows a second", ">= 200"
    return [{"name": name, "value": rate / 1000, "bound": bound, "ok": rate >= 200_000}]


def main() -> list[dict[str, Any]]:
    """(h) Compare steps by dfa and bp, and measure a graph epoch and the reader of clicks."""
    torch.set_num_threads(1)
    allocator.keep_freed_memory()  # as a run does
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [*rules(folder), *graph_epoch(folder), *reader(folder)]


if __name__ == "__main__":
    for line in main():
        print(line)
