"""Settings of the command line and limits of the machine, seen by `run` and `plan`."""

from __future__ import annotations

import pytest

from p2psim import memory
from tests.support.programs import GOOD, Bench, invoke, with_changes, write


def test_records_beyond_the_memory_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    write(bench.folder, with_changes(GOOD, {"rounds": 2 * 10**6}))
    bench.check_refused("rounds = 2000000 with 8 peers: ", "1 GiB", "give fewer rounds")


def test_keys_that_a_new_name_removes_are_printed(bench: Bench) -> None:
    result = invoke("plan", bench.file, "--set", "algorithm=d-psgd", "--set", "rounds=1")
    assert result.exit_code == 0, result.stderr
    (note,) = result.stderr.splitlines()
    assert note.startswith("p2psim: --set algorithm=d-psgd: left out algorithm.gamma = 0.4, ")
    assert note.endswith("which 'd-psgd' does not have")


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_no_experiment_file(name: str, bench: Bench) -> None:
    for command in ("run", "plan"):
        bench.check_refused(
            f"no experiment file {name!r}", "give a .toml file", call=(command, name)
        )


@pytest.mark.parametrize("only", [-1, 1, 7])
def test_only_out_of_range(only: int, bench: Bench) -> None:
    fragments = (f"--only {only}", "from 0 to 0")
    for command in ("run", "plan"):
        bench.check_refused(*fragments, call=(command, bench.file, "--only", only))
