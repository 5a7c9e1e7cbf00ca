"""Training step of ResNet-20 in simulated 8-bit arithmetic against one in fp32."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from p2psim import registry
from p2psim.learning.int8 import quantize_model

SHAPE, CLASSES, BATCH, REPEATS = (3, 32, 32), 10, 32, 7


def main() -> list[dict[str, Any]]:
    """Measure the ratio of a training step in int8 to one in fp32, for two norms."""
    torch.set_num_threads(1)
    inputs, targets = torch.randn(BATCH, *SHAPE), torch.randint(0, CLASSES, (BATCH,))

    def seconds(module: Any) -> float:
        began = time.perf_counter()
        loss = functional.cross_entropy(module(inputs), targets)
        torch.autograd.grad(loss, list(module.parameters()))
        return time.perf_counter() - began

    rows = []
    for norm in ("range-evonorm", "batch"):
        model = registry.names("model")["resnet"](norm=norm)
        plain, quantized = (model.build(SHAPE, CLASSES) for _ in range(2))
        quantized = quantize_model(quantized)
        for module in (plain, quantized):
            seconds(module)  # warm up
        # Interleaved, so that other processes slow down both alike.
        times = np.array([[seconds(plain), seconds(quantized)] for _ in range(REPEATS)])
        ratio = float(np.median(times[:, 1] / times[:, 0]))
        fp32, int8 = np.median(times, axis=0) * 1e3
        name = f"ResNet-20, {norm}: int8 {int8:.0f} ms / fp32 {fp32:.0f} ms"
        rows.append({"name": name, "value": ratio, "bound": "<= 3", "ok": ratio <= 3})
    return rows


if __name__ == "__main__":
    print(main())
