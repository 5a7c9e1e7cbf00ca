"""Every mistake of a user ends with exit code 2, one sentence that helps, and nothing written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import pytest

from tests.support.programs import (
    GOOD,
    QUADRATIC,
    REMOVED,
    Bench,
    Table,
    assert_refused,
    bench_in,
    invoke,
    p2psim,
    run,
    under_mpiexec,
    with_changes,
    write,
)

NAN, INF = float("nan"), float("inf")
SGP = {"algorithm": {"name": "sgp"}}
Changes: TypeAlias = dict[str, Any]
Fragments: TypeAlias = tuple[str, ...]
# id -> (what is changed in GOOD, what the message must hold: the key or file, and the cure)
WRONG_VALUES: dict[str, tuple[Changes, Fragments]] = {
    "word-for-number": ({"peers": "six"}, ("peers = 'six'", "a whole number >= 1")),
    "fraction-of-a-peer": ({"peers": 2.5}, ("peers = 2.5", "a whole number >= 1")),
    "true-peers": ({"peers": True}, ("peers = true", "a whole number >= 1")),
    "no-peers": ({"peers": 0}, ("peers = 0", ">= 1")),
    "giant-peers": ({"peers": 10**9}, ("peers = 1000000000: ", "GiB", "give fewer peers")),
    "peers-beyond-64-bits": ({"peers": 2**63}, ("peers = 9223372036854775808",)),
    "giant-layers": (
        {"model.hidden": [46_000] * 20},
        ("model: 40,", "parameters", "GiB", "make its layers smaller"),
    ),
    "negative-rounds": ({"rounds": -3}, ("rounds = -3", ">= 1")),
    "negative-seed": ({"seed": -1}, ("seed = -1", "a whole number >= 0")),
    "name-is-a-number": ({"name": 3}, ("name = 3", "a string")),
    "long-name": (
        {"name": "n" * 300},
        (
            "name = 'nnn",
            "nnn': give a name of at most 255 bytes",
        ),
    ),
    "long-value": (
        {"peers": "p" * 900},
        (
            "peers = 'ppp",
            "ppp': give a whole number >= 1",
        ),
    ),
    "infinite-epochs": ({"rounds": REMOVED, "epochs": INF}, ("epochs = inf", "a number > 0")),
    "nan-lr": ({"learning.optimizer.lr": NAN}, ("learning.optimizer.lr = nan", ">= 0")),
    "infinite-gamma": ({"algorithm.gamma": INF}, ("algorithm.gamma = inf", "a number >= 0")),
    "infinite-bandwidth": ({"time.link.bandwidth": INF}, ("time.link.bandwidth = inf", "> 0")),
    "negative-latency": ({"time.link.latency": -1.0}, ("time.link.latency = -1.0", ">= 0")),
    "momentum-1": ({"learning.optimizer.momentum": 1.0}, ("learning.optimizer", "< 1")),
    "nesterov-alone": ({"learning.optimizer.nesterov": True}, ("learning.optimizer", "momentum")),
    "keep-too-much": ({"algorithm.compressor.keep": 1.5}, ("algorithm.compressor.keep", "<= 1")),
    "keep-and-k": ({"algorithm.compressor.k": 3}, ("algorithm.compressor: give either", "both")),
    "neither-keep-nor-k": (
        {"algorithm.compressor.keep": REMOVED},
        ("algorithm.compressor: give either keep", "neither"),
    ),
    "hidden-word": ({"model.hidden": "wide"}, ("model.hidden = 'wide'", "a list")),
    "hidden-zero": ({"model.hidden": [8, 0]}, ("model.hidden = [8, 0]", "whole number >= 1")),
    "half-precision": ({"model.dtype": "float16"}, ("model.dtype", "'float32' or 'float64'")),
    "unknown-phase": ({"eval.phases": ["lokal"]}, ("eval.phases", "'local' or 'consensus'")),
    "no-phases": ({"eval.phases": []}, ("eval.phases = []", "give")),
    "never-evaluated": ({"eval.every": 0}, ("eval.every = 0", ">= 1")),
    "no-local-steps": ({"learning.local_steps": 0}, ("learning.local_steps = 0", ">= 1")),
    "empty-batch": ({"data.batch_size": 0}, ("data.batch_size = 0", ">= 1")),
    "too-many-test-samples": ({"data.test_samples": 5000}, ("data.test_samples", "at most 1796")),
    "section-is-a-number": ({"learning": 3}, ("learning = 3", "[learning]")),
    "algorithm-is-a-number": ({"algorithm": 3}, ("algorithm = 3", "[algorithm]")),
    "optimizer-is-a-number": ({"learning.optimizer": 3}, ("learning.optimizer = 3", "sgd")),
    "compressor-without-name": (
        {"algorithm.compressor": {"keep": 0.1}},
        ("algorithm.compressor = ", "allowed: ", "top-k"),
    ),
    "nothing-to-realize": ({"time": {"realize": True}}, ("time.realize = true", "compute or link")),
    "link-is-a-word": ({"time.link": "fast"}, ("time.link", "uniform")),
    "partition-is-a-list": ({"data.partition": ["iid"]}, ("data.partition = ['iid']", "iid")),
    "weights-are-a-number": ({"topology.weights": 3}, ("topology.weights", "metropolis")),
    "graph-parameter": (
        {"topology": {"name": "erdos-renyi", "p": "often"}},
        ("topology.p = 'often'", "correct it"),
    ),
}
MISSING: dict[str, tuple[Changes, Fragments]] = {
    "peers": ({"peers": REMOVED}, ("peers is missing", "--set peers=")),
    "data": ({"data": REMOVED}, ("data is missing", "allowed: ", "digits")),
    "model": ({"model": REMOVED}, ("model is missing", "allowed: ", "mlp")),
    "algorithm": ({"algorithm": REMOVED}, ("algorithm is missing", "allowed: ", "d-psgd")),
    "topology": ({"topology": REMOVED}, ("topology: give either a name", "p2psim list topology")),
    "topology-twice": ({"topology.file": "a.edgelist"}, ("topology: give either a name",)),
    "rounds-and-epochs": (
        {"rounds": REMOVED},
        ("give either rounds or epochs", "neither is given"),
    ),
    "rounds-and-epochs-both": ({"epochs": 2.0}, ("give either rounds or epochs", "both are given")),
    "parameter": ({"data.partition": "skew"}, ("data.partition.s is missing", "--set data.")),
}
# A key that nobody knows -> what it is corrected to.
UNKNOWN_KEYS = {
    "round": "rounds",
    "learnin": "learning",
    "data.batchsize": "batch_size",
    "data.partition.sS": "s",
    "model.hiden": "hidden",
    "model.dtyp": "dtype",
    "learning.local_step": "local_steps",
    "learning.optimizer.momentun": "momentum",
    "algorithm.gama": "gamma",
    "algorithm.compressor.kep": "keep",
    "topology.weight": "weights",
    "time.computer": "compute",
    "time.compute.seconds_per_stp": "seconds_per_step",
    "time.link.latencey": "latency",
    "eval.evry": "every",
}
# (Key, name that nobody knows) -> what it is corrected to.
UNKNOWN_NAMES = {
    ("algorithm.name", "choco"): "choco-sgd",
    ("algorithm.compressor.name", "topk"): "top-k",
    ("data.name", "digit"): "digits",
    ("data.partition", "idd"): "iid",
    ("model.name", "mpl"): "mlp",
    ("learning.rule", "bpp"): "bp",
    ("learning.optimizer.name", "sdg"): "sgd",
    ("learning.optimizer.schedule", "cosin"): "cosine",
    ("time.compute", "constnt"): "constant",
    ("topology.name", "rign"): "ring",
    ("topology.weights", "metropoli"): "metropolis",
}
MATCHINGS = """
import networkx as nx
def graph(n):
    return [nx.Graph([(i, (i + 1) % n) for i in range(k, n, 2)]) for k in (0, 1)]
"""
IMPOSSIBLE: dict[str, tuple[Changes, Fragments]] = {
    "choco-on-a-directed-ring": (
        {"topology": "directed-ring"},
        ("'choco-sgd' needs a symmetric", "'directed-ring'", "algorithm.push_sum = true"),
    ),
    "choco-with-out-degree": (
        {"topology": {"name": "star", "weights": "out-degree"}},
        ("'choco-sgd' needs a doubly-stochastic", 'weights = "metropolis"'),
    ),
    "choco-in-time": (
        {"topology": {"file": "matchings.py"}},
        ("'choco-sgd' needs a static", "does not change"),
    ),
    "sgp-has-no-parameters": (
        {**SGP, "algorithm.push_sum": True},
        ("'algorithm.push_sum'", "nothing is allowed", "remove it"),
    ),
    "deep-squeeze-on-a-directed-ring": (
        {"algorithm": "deep-squeeze", "topology": "directed-ring"},
        ("'deep-squeeze' needs a symmetric", "choose an undirected topology"),
    ),
    "d-psgd-with-out-degree": (
        {"algorithm": "d-psgd", "topology": {"name": "star", "weights": "out-degree"}},
        ("'d-psgd' needs a row-stochastic", "choose weights such as"),
    ),
    "sgp-on-row-stochastic": (
        {**SGP, "topology": {"name": "star", "weights": "uniform-neighbor"}},
        ("'sgp' needs a column-stochastic", 'set topology.weights = "out-degree"'),
    ),
    "metropolis-on-a-directed-ring": (
        {**SGP, "topology.name": "directed-ring"},
        ("topology.weights: 'metropolis' needs an undirected graph", "out-degree"),
    ),
    "hypercube-of-6": ({"peers": 6, "topology.name": "hypercube"}, ("topology: ", "power of")),
    "quadratic-with-a-batch": (
        {**QUADRATIC, "data.batch_size": 2},
        ("'quadratic'", "remove data.partition, data.batch_size and data.classes"),
    ),
    "quadratic-with-a-partition": (
        {**QUADRATIC, "data.partition": "iid"},
        ("'quadratic'", "remove data.partition, data.batch_size and data.classes"),
    ),
    "quadratic-with-5-peers": (
        {**QUADRATIC, "peers": 5},
        ("problem.npz", "holds 4 peers", "set peers = 4"),
    ),
    "x0-does-not-fit": (
        {**QUADRATIC, "model": {"name": "linear"}},
        ("model: has 4 parameters", "x0 has 3", 'use model = "vector"'),
    ),
    "vector-on-digits": ({"model": "vector"}, ("vector: ", "model 'linear'")),
    "cnn-on-flat-data": ({**QUADRATIC, "model": {"name": "cnn"}}, ("cnn: ", "take model 'mlp'")),
    "cnn-too-deep": (
        {"model": {"name": "cnn", "channels": [2, 2, 2, 2]}},
        ("cnn: ", "at least 16 x 16", "fewer channels"),
    ),
    "explicit-for-2-peers": (
        {"data.partition": {"name": "explicit", "classes": [[0], [1]]}},
        ("classes has 2 entries for 8 peers", "give one each"),
    ),
    "explicit-class-12": (
        {"peers": 2, "data.partition": {"name": "explicit", "classes": [[0], [12]]}},
        ("classes [12] of peer 1", "give different ones of [0, 1"),
    ),
    "explicit-too-many-samples": (
        {
            "peers": 2,
            "data.partition": {"name": "explicit", "classes": [[0], [1]], "samples": [9, 900]},
        },
        ("class 1 has", "give fewer samples"),
    ),
    "too-many-classes": (
        {"data.partition": {"name": "classes-per-peer", "c": 11}},
        ("c = 11", "give 1 to 10"),
    ),
    "too-few-classes": (
        {"data.partition": {"name": "classes-per-peer", "c": 1}},
        ("c = 1 cannot hold all 10", "c of at least 2"),
    ),
    "more-peers-than-samples": (
        {"peers": 1500, "data.partition": "iid"},
        ("gets none of the 1437 samples", "give fewer peers"),
    ),
}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "matchings.py").write_text(MATCHINGS)
    return bench_in(tmp_path, monkeypatch)


def every() -> Iterable[Any]:
    """All cases of the tables above, by a name each."""
    for table in (WRONG_VALUES, MISSING, IMPOSSIBLE):
        for name, (changes, fragments) in table.items():
            yield pytest.param(changes, fragments, id=name)
    for key, right in UNKNOWN_KEYS.items():
        fragments = (key, f"did you mean {right!r}?", "allowed: ")
        yield pytest.param({key: 1}, fragments, id=f"unknown-{key}")
    for (key, name), right in UNKNOWN_NAMES.items():
        where = key.removesuffix(".name")
        fragments = (where, f"unknown {WORDS.get(where, where.rpartition('.')[2])} {name!r}")
        fragments = (*fragments, f"did you mean {right!r}?", "allowed: ")
        yield pytest.param({key: name}, fragments, id=f"unknown-{name}")


WORDS = {"topology.weights": "rule"}


@pytest.mark.parametrize(("changes", "fragments"), list(every()))
def test_is_refused(changes: Table, fragments: tuple[str, ...], bench: Bench) -> None:
    write(bench.folder, with_changes(GOOD, changes))
    bench.check_refused(*fragments)


@pytest.mark.parametrize("changes", [{}, QUADRATIC, {**QUADRATIC, **SGP}])
def test_what_the_cases_start_from_is_right(changes: Changes, bench: Bench) -> None:
    write(bench.folder, with_changes(GOOD, changes))
    assert invoke("plan", bench.file).exit_code == 0


SWEEP = '[sweep]\n"algorithm.gamma" = '
TEXTS = {
    "no-toml": ("peers 8\n", ("experiment.toml", "is not valid TOML", "line 2")),
    "no-utf-8": ("name = '\udcff'\n", ("experiment.toml", "is not valid TOML")),
    "section-twice": ("[data]\n[data]\n", ("is not valid TOML", "line 3")),
    "sweep-of-a-number": (SWEEP + "0.1", ("[sweep] holds lists", "[0.1, 0.2]")),
    "sweep-with-a-long-value": (
        f'[sweep]\n"model.hidden" = [{[4] * 200}]',
        ("combination 'hidden=_4", "too long a name", "[sweep.case]"),
    ),
    "number-of-5000-digits": (f"peers = {'9' * 5000}", ("is not valid TOML",)),
    "lists-in-lists": (f"peers = {'[' * 5000}", ("is not valid TOML",)),
    "sweep-of-nothing": (SWEEP + "[]", ("[sweep] holds lists", "[0.1, 0.2]")),
    "sweep-of-one-twice": (SWEEP + "[0.1, 0.1]", ("[sweep]", "'gamma=0.1' more than once")),
    "sweep-with-the-first-wrong": (SWEEP + "[-1.0, 0.1]", ("algorithm.gamma = -1.0", ">= 0")),
    "sweep-with-the-last-wrong": (SWEEP + "[0.1, -1.0]", ("algorithm.gamma = -1.0", ">= 0")),
    "sweep-of-an-unknown-key": ('[sweep]\n"algorithm.gama" = [1]', ("did you mean 'gamma'?",)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_refused(name: str, bench: Bench) -> None:
    wrong, fragments = TEXTS[name]
    good = bench.file.read_bytes() if "sweep" in name else b""
    bench.file.write_bytes(good + b"\n" + wrong.encode("utf-8", "surrogateescape"))
    bench.check_refused(*fragments)


SETTINGS = {
    "peers": ("--set 'peers'", "give KEY=VALUE"),
    "=3": ("--set '=3'", "give KEY=VALUE"),
    "peers=[1": ("--set 'peers=[1'", "not a TOML value"),
    "peers=1 2": ("--set 'peers=1 2'", "not a TOML value"),
    "algorithm.gamma.deep=1": ("algorithm.gamma.deep", "'gamma' is a value, not a table"),
    "algorithm.gama=1": ("unknown key 'algorithm.gama'", "did you mean 'gamma'?"),
    f"peers={'[' * 5000}": ("is not a TOML value", "[[[...[[["),
    "peers=many": ("peers = 'many'", "a whole number >= 1"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_is_refused(setting: str, bench: Bench) -> None:
    for command in ("run", "plan"):
        bench.check_refused(*SETTINGS[setting], call=(command, bench.file, "--set", setting))


@pytest.mark.parametrize("key", ["algorithm.compressor", "algorithm.compressor.keep"])
def test_a_setting_that_the_sweep_would_undo_is_refused(key: str, bench: Bench) -> None:
    sweep = b'\n[sweep]\n"algorithm.compressor" = ["sign"]'
    bench.file.write_bytes(bench.file.read_bytes() + sweep)
    fragments = (f"--set '{key}=1': [sweep] has values for algorithm.compressor", "--only K")
    bench.check_refused(*fragments, call=("plan", bench.file, "--set", f"{key}=1"))


def test_an_occupied_run_folder(bench: Bench) -> None:
    out = bench.folder / "out"
    (out / "peers").mkdir(parents=True)
    mine = [out / "notes.txt", out / "peers" / "mine.h5", out / "peers" / "peer-of-mine.txt"]
    for path in mine:
        path.write_text("mine")
    for debug in ((), ("--debug",)):
        call = ("run", bench.file, "--out", "out", *debug)
        bench.check_refused("run folder 'out' is not empty", "--out DIR", "--force", call=call)
    for peers in (8, 4):  # the second time over an older run with more peers
        setting = ("--set", f"peers={peers}")
        result = invoke("run", bench.file, "--out", out, "--debug", "--force", *setting)
        assert result.exit_code == 0, result.output
        with h5py.File(out / "run.h5", "r", locking=False) as file:
            assert file.attrs["status"] == "done"
            assert file["final/x"].shape[0] == peers
        assert len(list(out.glob("peers/peer-0*.h5"))) == peers
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_links_in_a_run_folder_are_not_followed(bench: Bench) -> None:
    """`--force` replaces what is in the folder, and nothing that lies elsewhere."""
    call = ("run", bench.file, "--debug", "--set", "peers=2", "--set", "run.checkpoint_rounds=1")
    assert invoke(*call, "--out", "theirs").exit_code == 0
    theirs, out = bench.folder / "theirs", bench.folder / "out"
    (theirs / "checkpoints" / "000000001").mkdir(parents=True)
    (theirs / "checkpoints" / "000000001" / "peer-00000").write_text("theirs")
    out.mkdir()
    for name in ("peers", "checkpoints", "run.h5"):
        (out / name).symlink_to(theirs / name)
    before = {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()}
    result = invoke(*call, "--out", "out", "--force")
    assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()} == before
    assert not (out / "peers").is_symlink()
    assert len(list((out / "peers").glob("peer-*.h5"))) == 2


@pytest.mark.parametrize("more", [(), ("--force",)], ids=["plain", "force"])
@pytest.mark.parametrize("out", ["plug.txt", "plug.txt/out"])
def test_a_file_where_the_run_folder_should_be(
    out: str, more: tuple[str, ...], bench: Bench
) -> None:
    (bench.folder / "plug.txt").write_text("")
    call = ("run", bench.file, "--out", out, *more, "--debug")
    bench.check_refused(f"the run folder {out!r}", call=call)


def test_a_blocked_folder_is_seen_before_the_ranks_start(bench: Bench) -> None:
    (bench.folder / "plug.txt").write_text("")
    before = bench.contents()
    more = ("--out", "plug.txt/out", "--set", "peers=2")
    ended = run(p2psim("run", "experiment.toml", *more), bench.folder)
    assert_refused(ended.code, "\n".join(ended.messages()), ("the run folder", "is a file"))
    assert "Traceback" not in ended.stderr
    assert bench.contents() == before


def test_the_wrong_number_of_ranks(bench: Bench) -> None:
    before = bench.contents()
    command = under_mpiexec(2, p2psim("run", "experiment.toml", "--out", "out"))
    ended = run(command, bench.folder)
    fragments = ("peers = 8", "this run has 2 ranks", "-n 8", "--set peers=2")
    assert_refused(ended.code, "\n".join(ended.messages()), fragments)
    assert "Traceback" not in ended.stderr
    assert bench.contents() == before


def test_every_rank_sees_an_occupied_folder_and_one_says_so(bench: Bench) -> None:
    before = bench.contents()
    more = ("--out", ".", "--set", "peers=2")
    ended = run(under_mpiexec(2, p2psim("run", "experiment.toml", *more)), bench.folder)
    assert_refused(ended.code, "\n".join(ended.messages()), ("the run folder", "--force"))
    assert "Traceback" not in ended.stderr
    assert bench.contents() == before
