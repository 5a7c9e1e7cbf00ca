"""Learning rules and models that do not fit are refused, and frozen parameters are not counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import GOOD, Bench, bench_in, invoke, with_changes, write


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return bench_in(tmp_path, monkeypatch)


@pytest.mark.parametrize("rule", ["dfa", "shallow"])
def test_a_model_without_points_is_refused(rule: str, bench: Bench) -> None:
    write(bench.folder, with_changes(GOOD, {"model": "linear", "learning.rule": rule}))
    bench.check_refused("in a model of your own, put FeedbackPoint() of p2psim.layers")


def test_an_unknown_tap_is_refused(bench: Bench) -> None:
    write(bench.folder, with_changes(GOOD, {"learning.rule": {"name": "dfa", "tap": "top"}}))
    bench.check_refused("learning.rule.tap = 'top': the model has no such tap; give 'outputs'")


@pytest.mark.parametrize(
    ("rule", "count", "tensors"),
    [
        ("bp", 8 * 64 + 8 + 10 * 8 + 10, "4 tensors: 8 x 64, 8, 10 x 8, 10"),
        ("dfa", 610, "4 tensors: 8 x 64, 8, 10 x 8, 10"),
        ("shallow", 90, "2 tensors: 10 x 8, 10"),
    ],
)
def test_the_plan_counts_the_parameters_that_the_rule_trains(
    rule: str, count: int, tensors: str, bench: Bench
) -> None:
    write(bench.folder, with_changes(GOOD, {"learning.rule": rule}))
    result = invoke("plan", bench.file)
    assert f"{count} parameters in float32, {tensors}" in " ".join(result.output.split())
