"""Local step of the 2NN with minibatches of 10 against a plain torch loop with torch.optim.SGD."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from p2psim.experiment import scenario
from p2psim.network.clock import Clock
from p2psim.simulation.flat_model import FlatModel
from p2psim.simulation.minibatches import Batches, Samples
from p2psim.simulation.oracle import MinibatchOracle

SAMPLES, BATCH, STEPS, REPEATS = 600, 10, 200, 15


def plain(inputs: torch.Tensor, targets: torch.Tensor) -> Callable[[int], None]:
    """Return the step of a torch tutorial's training loop, on tensors in memory."""
    from torch import nn

    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    criterion = nn.CrossEntropyLoss()
    order = torch.randperm(SAMPLES)

    def step(number: int) -> None:
        start = number * BATCH % SAMPLES
        chosen = order[start : start + BATCH]
        optimizer.zero_grad()
        loss = criterion(model(inputs[chosen]), targets[chosen])
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def ours(inputs: torch.Tensor, targets: torch.Tensor) -> Callable[[int], None]:
    """Return the local step of a peer: x <- x - lr direction(x)."""
    table = {
        "name": "step",
        "peers": 1,
        "rounds": 1,
        "data": {"name": "digits", "batch_size": BATCH},
        "model": {"name": "mlp", "hidden": [200, 200]},
        "learning": {"optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.5}},
        "algorithm": "isolated",
        "topology": "complete",
    }
    setup = scenario.load(table, Path())
    data: Any = setup.experiment.data
    # The data set is not opened: it only describes the inputs above.
    data.shape = (784,)
    data.scale, data.shift = type(data).scale, type(data).shift
    model = FlatModel(setup, 0)
    samples = Samples(data, (inputs.numpy(), targets.numpy()), torch.float32, "cpu")
    batches, clock, x = Batches(data, samples, BATCH, 1, 0), Clock(), model.x
    oracle = MinibatchOracle(setup, model, batches, clock, alive=lambda: None)

    def step(number: int) -> None:
        oracle.local_step(x)

    return step


def main() -> list[dict[str, Any]]:
    """Measure the ratio of a peer's local step to the plain loop's, in interleaved blocks."""
    torch.set_num_threads(1)
    inputs, targets = torch.randn(SAMPLES, 784), torch.randint(0, 10, (SAMPLES,))
    loops = plain(inputs, targets), ours(inputs, targets)
    ratios = []
    for _ in range(REPEATS):
        times = []
        for loop in loops:
            began = time.perf_counter()
            for number in range(STEPS):
                loop(number)
            times.append((time.perf_counter() - began) / STEPS)
        ratios.append((times[1] / times[0], times[0] * 1e6, times[1] * 1e6))
    ratio, reference, own = np.median(ratios, axis=0)
    name = f"2NN step, ours {own:.0f} us / torch.optim {reference:.0f} us"
    return [{"name": name, "value": ratio, "bound": "<= 0.9", "ok": bool(ratio <= 0.9)}]


if __name__ == "__main__":
    print(main())
