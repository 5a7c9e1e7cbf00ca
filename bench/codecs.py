"""Throughput of the compressors, against a copy of the vector and against torch.topk.

All programs run in one thread and in turn. The minimum over the repeats is taken, because other
processes can only lengthen a measurement.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch start their threads

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from p2psim.registry import names
from p2psim.rng import RandomStream

# Parameters of compressors that have required ones; the others run with their defaults.
CASES: dict[str, dict[str, Any]] = {"top-k": {"keep": 0.01}, "random-k": {"keep": 0.01}}
SIZES = {1_000_000: 200, 10_000_000: 40}  # d -> repeats
AS_COPY = {"affine-8", "sign"}  # these must reach 1/8 of the throughput of a copy
TORCH = 3.0  # top-k must be this many times as fast as torch.topk


def minima(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Call all functions in turn, `repeats` times; return the shortest time (s) of each."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def coder(name: str, x: np.ndarray[Any, Any]) -> Callable[[], None]:
    """Return a function that encodes x and decodes it again."""
    codec = names("compressor")[name](**CASES.get(name, {}))
    codec.bind([x.shape], RandomStream(1, "bench", 0))
    out, y = np.empty(codec.max_bytes(x.size), np.uint8), np.empty_like(x)

    def run() -> None:
        codec.decode(out[: codec.encode(x, out)], y)

    run()
    return run


def torch_topk(x: np.ndarray[Any, Any]) -> Callable[[], None]:
    """Return a function that selects the largest 1 % of x with torch and gathers their values."""
    tensor, k = torch.from_numpy(x), x.size // 100

    def run() -> None:
        tensor[torch.topk(tensor.abs(), k).indices]

    return run


def top_k_encode(x: np.ndarray[Any, Any], values: str) -> Callable[[], None]:
    """Return a function that only encodes x with top-k: the work of `torch_topk`, no decoding."""
    codec = names("compressor")["top-k"](keep=0.01, values=values)
    codec.bind([x.shape], RandomStream(1, "bench", 0))
    out = np.empty(codec.max_bytes(x.size), np.uint8)
    return lambda: codec.encode(x, out)


def measure(d: int, repeats: int) -> list[dict[str, Any]]:
    """Return the rows of all compressors for vectors of d float32 entries."""
    x = np.random.default_rng(0).standard_normal(d, dtype=np.float32)
    y, rows, size = np.empty_like(x), [], f"d = {d:.0e}"
    for name in names("compressor"):
        # Each compressor has its own copy beside it, so that both find x in the same cache.
        best = minima({"copy": lambda: np.copyto(y, x), "codec": coder(name, x)}, repeats)
        ratio, bound = best["copy"] / best["codec"], 1 / 8 if name in AS_COPY else None
        rows.append(row(f"copy, {size}: GB/s", 4e-9 * d / best["copy"]))
        rows.append(row(f"{name}, {size}: GB/s", 4e-9 * d / best["codec"]))
        rows.append(row(f"{name}, {size}: of a copy", ratio, bound))
    encode = {values: top_k_encode(x, values) for values in ("identity", "affine-8")}
    best = minima({"torch": torch_topk(x), **encode}, max(4, repeats // 8))
    for values in encode:
        title = f"top-k encode 1 %, {values}, {size}: times torch.topk"
        rows.append(row(title, best["torch"] / best[values], TORCH))
    return rows


def row(name: str, value: float, least: float | None = None) -> dict[str, Any]:
    """Return one row of the table; `least` is the smallest allowed value."""
    ok = least is None or value >= least
    return {"name": name, "value": value, "bound": "" if least is None else f">= {least}", "ok": ok}


def main() -> list[dict[str, Any]]:
    """Measure the throughput of the compressors, encoding and decoding together."""
    torch.set_num_threads(1)
    return [line for d, repeats in SIZES.items() for line in measure(d, repeats)]
