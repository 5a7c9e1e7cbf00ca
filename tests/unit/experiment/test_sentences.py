"""Sentences about mistakes in an experiment: spelling of values, keys, places and remedies."""

from __future__ import annotations

import pytest

from p2psim import memory
from p2psim.errors import spelled
from tests.support.programs import GOOD, REMOVED, Bench, invoke, with_changes, write


def test_values_are_spelled_as_in_the_file() -> None:
    value = {"name": "mlp", "hidden": [1, 2.5], "deep": [{"on": True, "off": False}]}
    text = "{name = 'mlp', hidden = [1, 2.5], deep = [{on = true, off = false}]}"
    assert spelled(value) == text


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"seed": 2**63}, ("seed = 9223372036854775808", ">= 0, at most 2^63 - 1")),
        ({"algorithm": {}}, ("algorithm is missing: give a name, or a table with name",)),
        ({"data.classes": [0, 0]}, ("data.classes = [0, 0]", "each once")),
        ({"sweep": {"seed": []}}, ("sweep.seed = []: [sweep] holds lists",)),
        (
            {"sweep": {"topology.name": ["ring", "torus"]}, "peers": 7},
            ("name=torus: topology: ", "peers"),
        ),
        ({"algorithm": "plug.py:Mine"}, ("plug.py' cannot be loaded: SyntaxError: ", "line 1)")),
        (
            {"data": {"name": "text", "file": "words.txt"}, "model": "transformer"},
            ("see `p2psim list model transformer`",),
        ),
    ],
    ids=["seed", "algorithm", "classes", "sweep", "combination", "syntax", "outputs"],
)
def test_is_refused(changes: dict[str, object], fragments: tuple[str, ...], bench: Bench) -> None:
    (bench.folder / "plug.py").write_text("class Mine(:\n")
    (bench.folder / "words.txt").write_text("to be or not to be " * 1000)
    write(bench.folder, with_changes(GOOD, changes))
    bench.check_refused(*fragments)


def test_a_mark_of_the_encoding_may_precede_the_file(bench: Bench) -> None:
    bench.file.write_bytes(b"\xef\xbb\xbf" + bench.file.read_bytes())
    result = invoke("plan", bench.file)
    assert result.exit_code == 0, result.output


def test_the_optimizer_may_be_left_to_its_default(bench: Bench) -> None:
    write(bench.folder, with_changes(GOOD, {"learning": REMOVED}))
    result = invoke("plan", bench.file, "--set", "learning.optimizer.lr=0.5")
    assert result.exit_code == 0, result.output
    bench.check_refused(
        "optimizer.rate", call=("plan", bench.file, "--set", "learning.optimizer.rate=1")
    )


def test_a_graph_of_p2psim_is_no_place_of_a_mistake(bench: Bench) -> None:
    write(bench.folder, with_changes(GOOD, {"topology": {"name": "hypercube"}, "peers": 6}))
    result = invoke("plan", bench.file)
    assert result.stderr.endswith("take name = 'exponential'\n")


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_a_sweep_is_not_put_beside_a_single_run(force: tuple[str, ...], bench: Bench) -> None:
    ended = invoke("run", bench.file, "--out", "out", "--debug")
    assert ended.exit_code == 0, ended.output
    bench.check_refused(
        "'out' holds a run", "with --resume", call=("run", bench.file, "--out", "out")
    )
    write(bench.folder, with_changes(GOOD, {"sweep": {"seed": [1, 2]}}))
    fragments = ("folder 'out' of this [sweep] holds a single run", "--out DIR")
    bench.check_refused(*fragments, call=("run", bench.file, "--out", "out", *force))


def test_a_folder_of_other_files_is_no_run_to_resume(bench: Bench) -> None:
    (bench.folder / "out").mkdir()
    (bench.folder / "out" / "notes.txt").touch()
    call = ("run", bench.file, "--out", "out", "--resume")
    bench.check_refused("run folder 'out' is not empty", call=call)


def test_a_minibatch_that_exceeds_the_memory_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a batch_size it is all samples of a peer, 178 images, each in 4096 channels."""
    monkeypatch.setattr(memory, "available", lambda: 50 * 2**20)
    model = {"name": "cnn", "channels": [4096, 8]}
    write(bench.folder, with_changes(GOOD, {"model": model, "data.batch_size": REMOVED}))
    text = "data.batch_size: a minibatch of 178 samples in the model would take "
    bench.check_refused(text, "more than the 0.0 GiB", "give a smaller data.batch_size")
