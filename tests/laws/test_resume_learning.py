"""Stopped runs go on with the same bits: feedback rules, and rates that follow losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.laws.test_resume import TABLE, assert_same
from tests.support.graphs import SmallGraph


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("feedback", ["shared", "own"])
def test_feedback_is_drawn_again_after_each_of_three_stops(
    feedback: str, precision: str, tmp_path: Path
) -> None:
    rule = {"name": "dfa", "feedback": feedback}
    learning = {"rule": rule, "precision": precision}
    rounds = {"rounds": 24, "eval": {"every": 4, "alignment": 2}}
    assert_same({**TABLE, "learning": learning, **rounds}, tmp_path, times=3)


def test_a_rate_that_follows_the_validation_samples(tmp_path: Path) -> None:
    schedule = {"name": "plateau", "by": 0.5, "patience": 0}
    optimizer = {"name": "adam", "lr": 0.3, "schedule": schedule, "clip": 0.1, "decayed": [0]}
    data = {"name": "planetoid", "graph": SmallGraph().write(tmp_path)}
    table = {**TABLE, "peers": 3, "data": data, "model": {"name": "gcn", "hidden": 4}}
    learning = {"optimizer": {**optimizer, "weight_decay": 0.01}}
    assert_same({**table, "learning": learning, "eval": {"every": 1}}, tmp_path)
