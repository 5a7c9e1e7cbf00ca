"""Clipping, weight decay on some tensors, and the schedules noam and plateau."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2psim import registry
from p2psim.errors import InputError
from p2psim.experiment import scenario
from p2psim.registry import find
from tests.support.graphs import SmallGraph

SHAPES = [(3, 4), (4,), (4, 2), (2,)]
SIZES = [math.prod(shape) for shape in SHAPES]


class Facts:
    """Facts about an experiment that optimizers bind to."""

    shapes = SHAPES
    steps_per_epoch = 10
    validates = True


def optimizer(name: str, **parameters: Any) -> Any:
    """Return a bound optimizer that has started at 0."""
    made: Any = registry.names("optimizer")[name](schedule=None, **parameters)
    made.bind(Facts())
    made.start(np.zeros(sum(SIZES)))
    return made


def torch_groups(x: Any, decayed: list[int], decay: float) -> list[dict[str, Any]]:
    """Return a parameter group of torch for each tensor, with weight decay on some."""
    parts = torch.split(torch.from_numpy(x.copy()), SIZES)
    parameters = [torch.nn.Parameter(part.clone()) for part in parts]
    return [
        {"params": [p], "weight_decay": decay * (number in decayed)}
        for number, p in enumerate(parameters)
    ]


@pytest.mark.parametrize("decayed", [[0], [3, 1], [], [0, 1, 2, 3]])
@pytest.mark.parametrize(("name", "decoupled"), [("sgd", False), ("adam", False), ("adam", True)])
@pytest.mark.parametrize("clip", [0.0, 0.5, 100.0])
def test_decay_and_clipping_are_those_of_torch(
    name: str, decoupled: bool, clip: float, decayed: list[int]
) -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal(sum(SIZES))
    groups = torch_groups(x, decayed, 0.2)
    parameters = [group["params"][0] for group in groups]
    kinds: dict[Any, Any] = {
        ("sgd", False): torch.optim.SGD,
        ("adam", False): torch.optim.Adam,
        ("adam", True): torch.optim.AdamW,
    }
    reference = kinds[name, decoupled](groups, lr=0.1)
    options = {"decoupled": True} if decoupled else {}
    ours = optimizer(name, weight_decay=0.2, decayed=decayed, clip=clip, **options)
    for _ in range(5):
        g = random.standard_normal(sum(SIZES))
        before = g.copy()
        x = x - 0.1 * ours.direction(g, x)
        assert np.array_equal(g, before)  # it is the caller's
        for parameter, part in zip(
            parameters, torch.split(torch.from_numpy(g), SIZES), strict=True
        ):
            parameter.grad = part.clone()
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        reference.step()
    theirs = torch.cat([p.detach() for p in parameters]).numpy()
    # torch divides by the norm plus 1e-6.
    assert np.abs(x - theirs).max() <= (1e-5 if clip == 0.5 else 1e-12)


def test_the_norm_of_a_clipped_gradient() -> None:
    ours = optimizer("sgd", clip=0.5)
    g = np.random.default_rng(1).standard_normal(sum(SIZES))
    clipped = ours.direction(g, g)
    assert abs(np.linalg.norm(clipped) - 0.5) < 1e-12
    assert np.allclose(clipped * np.linalg.norm(g), 0.5 * g)
    small = 0.1 * g / np.linalg.norm(g)
    assert ours.direction(small, g) is small


def test_a_tensor_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    table: dict[str, Any] = {
        "name": "wrong",
        "peers": 2,
        "rounds": 1,
        "data": {"name": "digits"},
        "model": "linear",
        "learning": {"optimizer": {"name": "sgd", "weight_decay": 0.1, "decayed": [2]}},
        "algorithm": "isolated",
        "topology": "ring",
    }
    with pytest.raises(
        InputError, match=r"learning.optimizer: decayed has the entry 2, but .* 2 t"
    ):
        scenario.load(table, tmp_path)


def test_noam_rises_and_falls_as_published() -> None:
    schedule: Any = find("schedule", "noam", Path())(width=64, warmup=40)
    schedule.bind(Facts())
    for t in (1, 2, 39, 40, 41, 400):
        expected = 64**-0.5 * min(t**-0.5, t * 40**-1.5)
        assert math.isclose(schedule.factor((t - 1) / Facts.steps_per_epoch, 50), expected)
    factors = [schedule.factor(epoch / 10, 50) for epoch in range(100)]
    assert factors.index(max(factors)) == 39


@pytest.mark.parametrize(
    ("patience", "losses", "drops"),
    [
        (0, [3, 2, 2, 1, 1.5, 1.5], [0, 0, 1, 1, 2, 3]),
        (1, [3, 2, 2, 2, 2, 2, 1], [0, 0, 0, 1, 1, 2, 2]),
        (1, [3, 4, 2, 4, 1], [0, 0, 0, 0, 0]),
        (2, [1, math.nan, 2, 2], [0, 0, 0, 1]),
    ],
)
def test_plateau_drops_when_the_loss_does_not_fall(
    patience: int, losses: list[float], drops: list[int]
) -> None:
    schedule: Any = find("schedule", "plateau", Path())(by=0.5, patience=patience)
    schedule.bind(Facts())
    schedule.start()
    seen = []
    for loss in losses:
        schedule.evaluated(loss)
        seen.append(schedule.factor(1.0, 2.0))
    assert seen == [0.5**drop for drop in drops]


@pytest.mark.parametrize("graph", [True, False])
def test_plateau_needs_validation_samples(graph: bool, tmp_path: Path) -> None:
    data = {"name": "planetoid", "graph": SmallGraph().write(tmp_path)} if graph else "digits"
    table: dict[str, Any] = {
        "name": "plateau",
        "peers": 2,
        "rounds": 1,
        "data": data,
        "model": "gcn" if graph else "linear",
        "learning": {"optimizer": {"name": "sgd", "schedule": "plateau"}},
        "algorithm": "isolated",
        "topology": "ring",
    }
    if graph:
        scenario.load(table, tmp_path)
    else:
        with pytest.raises(InputError, match=r"'plateau' needs validation samples, .*another"):
            scenario.load(table, tmp_path)
