"""The schedule exponential."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from p2psim.base import LearningRateSchedule
from p2psim.registry import find


@pytest.mark.parametrize("last", [0.1, 0.5, 1.0])
def test_the_rate_falls_by_equal_ratios(last: float) -> None:
    schedule: LearningRateSchedule = find("schedule", "exponential", Path())(last=last)
    factors = [schedule.factor(0.8 * k / 4, 0.8) for k in range(5)]
    assert factors[0] == 1
    assert math.isclose(factors[-1], last)
    for before, after in pairwise(factors):
        assert math.isclose(after / before, last**0.25)
