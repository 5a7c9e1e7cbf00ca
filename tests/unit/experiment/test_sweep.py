"""[sweep]: lists of values by key, and cases that set several keys at once."""

from __future__ import annotations

import re
from typing import Any

import pytest

from p2psim.errors import InputError
from p2psim.experiment.sweep import assign, combinations, update

CASES = {"local DSGD": {"algorithm.eta_d": 0.0}, "DSGD": {"rounds": 20, "algorithm": "d-psgd"}}
TABLE: dict[str, Any] = {
    "rounds": 2,
    "algorithm": {"name": "p2pl", "eta_d": 1.0},
    "sweep": {"seed": [1, 2], "case": CASES},
}


def test_a_case_sets_all_its_keys() -> None:
    made = dict(combinations(TABLE))
    assert list(made) == ["seed=1-local_DSGD", "seed=1-DSGD", "seed=2-local_DSGD", "seed=2-DSGD"]
    assert made["seed=2-DSGD"] == {"rounds": 20, "algorithm": "d-psgd", "seed": 2}
    own = {"rounds": 2, "algorithm": {"name": "p2pl", "eta_d": 0.0}, "seed": 1}
    assert made["seed=1-local_DSGD"] == own
    assert TABLE["algorithm"]["eta_d"] == 1.0


def test_a_case_without_keys_is_the_file_as_it_is() -> None:
    table = {"rounds": 2, "sweep": {"case": {"plain": {}}}}
    assert combinations(table) == [("plain", {"rounds": 2})]


def test_a_case_may_be_written_in_nested_tables() -> None:
    case = {"algorithm": {"eta_d": 0.5}, "topology": {"name": "ring"}, "time": {"link": {"a": 1}}}
    ((_, made),) = combinations({**TABLE, "sweep": {"case": {"one": case}}})
    assert made["algorithm"] == {"name": "p2pl", "eta_d": 0.5}
    assert made["topology"] == {"name": "ring"}
    assert made["time"] == {"link": {"a": 1}}


@pytest.mark.parametrize("turn", [1, -1])
def test_in_a_case_a_plug_in_comes_before_its_parameters(turn: int) -> None:
    items = [("algorithm.eta_d", 0.5), ("algorithm", "isolated")][::turn]
    ((_, made),) = combinations({**TABLE, "sweep": {"case": {"one": dict(items)}}})
    assert made["algorithm"] == {"name": "isolated", "eta_d": 0.5}


@pytest.mark.parametrize("turn", [1, -1])
def test_a_key_reaches_the_plug_in_of_another_entry_in_any_order(turn: int) -> None:
    items = [("algorithm.eta_d", [0.1, 0.2]), ("algorithm", [{"name": "isolated"}])][::turn]
    made = [table["algorithm"] for _, table in combinations({**TABLE, "sweep": dict(items)})]
    assert made == [{"name": "isolated", "eta_d": eta_d} for eta_d in (0.1, 0.2)]


def test_what_two_entries_set_is_refused() -> None:
    with pytest.raises(InputError, match="several values for seed in one combination"):
        combinations({"sweep": {"seed": [1, 2], "case": {"a": {"seed": 3}}}})
    with pytest.raises(InputError, match="a case holds another sweep"):
        combinations({"sweep": {"case": {"a": {"sweep": {"seed": [1, 2]}}}}})


@pytest.mark.parametrize(("given", "removed"), [("epochs", "rounds"), ("rounds", "epochs")])
def test_one_length_of_a_run_replaces_the_other(given: str, removed: str) -> None:
    said: list[str] = []
    table = {"name": "a", removed: 2}
    assert assign(table, [f"{given}=7"], say=said.append) == {"name": "a", given: 7}
    assert said == [f"--set '{given}=7': it replaces {removed}"]
    assert assign(table, [f"{removed}=8", f"{given}=7"]) == {"name": "a", given: 7}  # the last one
    assert update(table, {given: 7}) == {"name": "a", given: 7}
    assert update(table, {given: 7, removed: 8}) == {"name": "a", given: 7, removed: 8}


@pytest.mark.parametrize("key", ["seed", "algorithm", "rounds"])
def test_a_setting_that_a_case_would_undo_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"[sweep] has values for {key}, which would")):
        assign(TABLE, [f"{key}=5"])
    assert assign(TABLE, ["peers=5"])["peers"] == 5


@pytest.mark.parametrize(
    "given", [{}, {"case": {}}, {"case": {"a": 1}}, {"seed": 3}, {"seed": []}, [1, 2]]
)
def test_what_is_neither_is_refused(given: Any) -> None:
    if given == {}:
        assert combinations({"rounds": 2, "sweep": given}) == [("", {"rounds": 2})]
        return
    with pytest.raises(InputError, match="holds lists by dotted key"):
        combinations({"rounds": 2, "sweep": given})


def test_two_cases_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="'a_b' more than once"):
        combinations({"sweep": {"case": {"a b": {}, "a/b": {}}}})


SECTIONS: dict[str, Any] = {
    "data": {"name": "digits", "test_samples": 300, "batch_size": 16, "partition": {"name": "iid"}},
    "learning": {"optimizer": {"name": "sgd", "lr": 0.3, "momentum": 0.9}},
    "algorithm": {
        "name": "choco-sgd",
        "gamma": 0.4,
        "compressor": {"name": "top-k", "keep": 0.1},
    },
    "topology": {"name": "erdos-renyi", "p": 0.5, "weights": "lazy"},
    "time": {"link": {"latency": 0.1, "bandwidth": 1e9}},
}
MNIST = {"name": "mnist", "batch_size": 16, "partition": {"name": "iid"}}


@pytest.mark.parametrize(
    ("setting", "expected", "removed"),
    [
        ("data=mnist", {"data": MNIST}, "data.test_samples = 300"),
        ("data.name=mnist", {"data": MNIST}, "data.test_samples = 300"),
        (
            "learning.optimizer=adam",
            {"learning": {"optimizer": {"name": "adam", "lr": 0.3}}},
            "learning.optimizer.momentum = 0.9",
        ),
        (
            "algorithm=deep-squeeze",
            {"algorithm": {**SECTIONS["algorithm"], "name": "deep-squeeze"}},
            "",
        ),
        (
            "algorithm.compressor=sign",
            {"algorithm": {**SECTIONS["algorithm"], "compressor": {"name": "sign"}}},
            "algorithm.compressor.keep = 0.1",
        ),
        ("topology=ring", {"topology": {"name": "ring", "weights": "lazy"}}, "topology.p = 0.5"),
        (
            "time.link=access",
            {"time": {"link": {"name": "access", "latency": 0.1}}},
            "time.link.bandwidth = 1000000000.0",
        ),
    ],
)
def test_a_new_name_keeps_the_keys_that_both_plug_ins_have(
    setting: str, expected: dict[str, Any], removed: str
) -> None:
    notes: list[str] = []
    assert assign(SECTIONS, [setting], say=notes.append) == {**SECTIONS, **expected}
    assert len(notes) == bool(removed)
    assert removed in "".join(notes)


@pytest.mark.parametrize("setting", ["data={name='mnist'}", "algorithm=dpsgd", "name=mnist"])
def test_a_table_and_an_unknown_name_replace_all_keys(setting: str) -> None:
    notes: list[str] = []
    key, _, value = setting.partition("=")
    changed = assign(SECTIONS, [setting], say=notes.append)
    assert changed == {**SECTIONS, key: {"name": "mnist"} if "{" in value else value}
    assert not notes
