"""Norms against their formulas, in NumPy."""

from __future__ import annotations

import math

import numpy as np
import torch

from p2psim.models import norms
from tests.laws.test_precision import tensor


def test_norms_by_their_formulas() -> None:
    x = tensor(3, 4, 8, 8).numpy() * 2 + 0.5
    gamma, beta, v = (tensor(4, seed=s).numpy().reshape(1, 4, 1, 1) for s in (1, 2, 3))
    by_group = x.reshape(3, 2, 2 * 64)
    groups = {"evonorm": np.sqrt(by_group.var(-1) + 1e-5)}
    cut = by_group.reshape(3, 2, 16, 8)  # 16 chunks of 8
    kappa = 0.54021 / math.sqrt(2 * math.log(8))
    groups["range-evonorm"] = (cut.max(-1).mean(-1) - cut.min(-1).mean(-1)) * kappa + 1e-5
    gates = {
        "evonorm": 1 / (1 + np.exp(-v * x)),
        "range-evonorm": np.clip((v * x + 3) / 6, 0, 1),
    }
    wanted = {
        kind: gamma * x * gates[kind] / np.repeat(groups[kind], 2, axis=1)[:, :, None, None] + beta
        for kind in groups
    }
    axes = (0, 2, 3)
    reach = (x.max(axes) - x.min(axes)) / math.sqrt(2 * math.log(3 * 64)) + 1e-5
    middle = x - x.mean(axes, keepdims=True)
    wanted["range-bn"] = gamma * middle / reach.reshape(1, 4, 1, 1) + beta
    for kind, value in wanted.items():
        norm = norms.make(kind, 4, 2).double()
        for name, p in norm.named_parameters():
            p.data = torch.from_numpy({"weight": gamma, "bias": beta, "v": v}[name].reshape(-1))
        got = norm(torch.from_numpy(x)).detach().numpy()
        assert np.abs(got - value).max() < 2e-4 * np.abs(value).max(), kind


def test_range_of_gaussians_is_about_their_deviation() -> None:
    for n, share in ((16 * 16, 0.81), (16 * 128, 0.90), (16 * 2048, 0.95)):
        norm = norms.RangeEvoNorm(1, 1).double()
        scale = norm.scale(tensor(200, 1, n // 16, 16)).mean()
        assert abs(float(scale) - share) < 0.02


def test_range_bn_evaluates_with_its_own_running_statistics() -> None:
    norm = norms.RangeBatchNorm(3).double()
    for seed in range(60):
        norm(2 * tensor(8, 3, 5, 5, seed=seed) + 1)
    norm.eval()
    x = 2 * tensor(8, 3, 5, 5, seed=99) + 1
    one, all_of_them = norm(x[:1]), norm(x)
    assert torch.equal(one, all_of_them[:1])
    norm.train()
    assert (norm(x) - all_of_them).abs().max() < 0.5
    assert not torch.equal(norm(x[:1]), one)
