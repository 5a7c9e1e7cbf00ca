"""Adam and AdamW against torch.optim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from p2psim import registry
from p2psim.errors import InputError
from p2psim.experiment import config

STEPS, D = 20, 50
CASES: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1, "beta1": 0.7, "beta2": 0.9, "epsilon": 1e-3}),
    (torch.optim.Adam, {"beta1": 0.0, "beta2": 0.0}),
    (torch.optim.AdamW, {"weight_decay": 0.1, "decoupled": True}),
    (torch.optim.AdamW, {"weight_decay": 0.0, "decoupled": True, "beta1": 0.5}),
]


@pytest.mark.parametrize(("kind", "given"), CASES, ids=str)
def test_it_is_that_of_torch(kind: Any, given: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    x, target = random.standard_normal(D), random.standard_normal(D)
    theirs = torch.nn.Parameter(torch.from_numpy(x.copy()))
    betas = given.get("beta1", 0.9), given.get("beta2", 0.999)
    decay, eps = given.get("weight_decay", 0.0), given.get("epsilon", 1e-8)
    reference = kind([theirs], lr=0.05, betas=betas, eps=eps, weight_decay=decay)
    ours = registry.names("optimizer")["adam"](lr=0.05, schedule=None, **given)
    ours.start(x)
    for _ in range(STEPS):
        noise = random.standard_normal(D)
        g = x - target + noise
        before = g.copy()
        x = x - 0.05 * ours.direction(g, x)
        assert np.array_equal(g, before)  # it is the caller's
        theirs.grad = theirs.detach() - torch.from_numpy(target - noise)
        reference.step()
    assert np.abs(x - theirs.detach().numpy()).max() < 1e-12
    assert np.abs(x - target).max() < np.abs(target).max() + 3


def test_no_step_allocates() -> None:
    x = np.ones(1000, np.float32)
    ours = registry.names("optimizer")["adam"](schedule=None, weight_decay=0.1)
    ours.start(x)
    first, second = (ours.direction(x, x) for _ in range(2))
    assert first.dtype == np.float32
    assert first.__array_interface__["data"] == second.__array_interface__["data"]


@pytest.mark.parametrize("name", ["beta1", "beta2"])
def test_a_share_below_one(name: str, tmp_path: Any) -> None:
    with pytest.raises(InputError, match=f"{name} = 1.0: give a number >= 0 and < 1"):
        config.Builder(tmp_path).plugin("optimizer", {"name": "adam", name: 1.0}, "optimizer")
