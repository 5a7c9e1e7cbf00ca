"""Minibatches: small samples, which are put into order once an epoch, give the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from p2psim.base import Data
from p2psim.simulation import minibatches
from p2psim.simulation.minibatches import Batches, Samples

COUNT, SIZE = 23, 4


def batches(inputs: Any) -> list[Any]:
    """Return the minibatches of three epochs."""
    raw = inputs, np.arange(COUNT)
    made = Batches(Data(), Samples(Data(), raw, torch.float32, "cpu"), SIZE, 5, 2)
    return [made.take(step) for step in range(3 * made.per_epoch)]


@pytest.mark.parametrize("named", [False, True])
def test_small_and_large_samples_give_the_same_minibatches(
    named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = np.random.default_rng(0).random((COUNT, 3, 2))
    inputs: Any = {"a": column, "b": column[:, 0]} if named else column
    small = batches(inputs)
    monkeypatch.setattr(minibatches, "SMALL", 0)
    large = batches(inputs)
    assert len(small) == len(large) == 3 * (COUNT // SIZE)
    for one, other in zip(small, large, strict=True):
        assert torch.equal(one.targets, other.targets)
        assert (one.weight, one.start) == (other.weight, other.start) == (SIZE, 0)
        for name in inputs if named else [None]:
            values, others = (b.inputs[name] if named else b.inputs for b in (one, other))
            assert torch.equal(values, others)
            whole = inputs[name] if named else inputs
            assert np.array_equal(values.numpy(), whole[one.targets].astype(np.float32))
