"""One experiment gives the same bits under `mpiexec p2psim run`, `p2psim run` and `--debug`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import pytest

from p2psim import registry
from p2psim.network.neighborhood import WINDOW
from tests.support.programs import Table, invoke, made_once, p2psim, run, under_mpiexec, write
from tests.support.thorough import thorough

PEERS, ROUNDS, EVERY = 6, 12, 5
Reference: TypeAlias = Callable[[str], Path]  # name of a variant -> run folder of --debug
TOP_K = {"name": "top-k", "keep": 0.1}
RING: Table = {"name": "ring"}
WANDERING: Table = {"name": "one-peer-exponential"}
TIMES: Table = {
    "compute": {"name": "shifted-exponential", "shift": 0.05, "mean": 0.02, "period": 3},
    "link": {"latency": 1e-3, "bandwidth": 1e6},
}


def variant(name: str, topology: Table = RING, /, **changes: Any) -> Table:
    """An experiment that stands for an algorithm. `changes` of other sections by section."""
    table: Table = {
        "peers": PEERS,
        "rounds": ROUNDS,
        "data": {
            "name": "digits",
            "partition": {"name": "skew", "s": 0.8},
            "batch_size": 16,
        },
        # More than 10,000 parameters: there, BLAS begins to share a sum out among threads.
        "model": {"name": "mlp", "hidden": [160]},
        "learning": {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}, "l2": 1e-4},
        "algorithm": {"name": name},
        "topology": topology,
        "eval": {"every": EVERY},
    }
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values}
    return table


def choco(kind: str, **compressor: Any) -> Table:
    """CHOCO-SGD, fresh or stale."""
    return variant("choco-sgd", algorithm={"variant": kind, "gamma": 0.3, "compressor": compressor})


VARIANTS: dict[str, Table] = {
    "isolated": variant("isolated"),
    "all-reduce": variant("all-reduce"),
    "d-psgd-atc": variant("d-psgd", time=TIMES),
    "d-psgd-cta-T2-S2": variant(
        "d-psgd", algorithm={"order": "cta"}, learning={"local_steps": 2, "consensus_steps": 2}
    ),
    "d-psgd-float64": variant("d-psgd", model={"dtype": "float64"}),
    "choco-fresh-top-k": choco("fresh", **TOP_K),
    "choco-fresh-top-k-affine-8": choco("fresh", **TOP_K, values="affine-8"),
    "choco-fresh-random-k": choco("fresh", name="random-k", keep=0.1),
    "choco-stale-qsgd": {**choco("stale", name="qsgd", bits=8, biased=True), "time": TIMES},
    "deep-squeeze-sign": variant(
        "deep-squeeze", algorithm={"gamma": 0.2, "compressor": {"name": "sign"}}
    ),
    "sgp-one-peer-exponential": variant("sgp", WANDERING),
    "p2pl": variant(
        "p2pl",
        {"name": "star", "weights": "data-size"},
        model={"init": "own"},
        data={"partition": {"name": "dirichlet", "alpha": 0.5}},
        algorithm={"epsilon": [1.0, 0.5, 0.9, 0.4, 0.7, 1.0], "eta_b": 0.1},
        learning={"local_steps": 3, "consensus_steps": 2},
    ),
    "full-sgd": variant("full-sgd", {"name": "complete"}, time=TIMES),
    "k-sgd": variant("k-sgd", algorithm={"k": 2}, time=TIMES),
    "lgc-sgd": variant("lgc-sgd", algorithm={"k": 2, "partial": "timing"}, time=TIMES),
    "async-gossip": variant("async-gossip", algorithm={"window": 0.2}, time=TIMES),
    "choco-8-bits-quasi-global": {
        **variant(
            "choco-sgd",
            {"name": "directed-ring"},
            algorithm={"gamma": 1.0, "compressor": {"name": "affine-8"}, "push_sum": True},
        ),
        "model": {"name": "convnet", "norm": "range-evonorm"},
        "learning": {"precision": "int8", "optimizer": {"name": "qg-momentum", "nesterov": True}},
    },
    "choco-dfa-8-bits": {
        **choco("fresh", **TOP_K),
        "learning": {
            "rule": {"name": "dfa", "feedback": "own"},
            "precision": "int8",
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        },
        "eval": {"every": EVERY, "alignment": 2},
    },
    "choco-push-sum": variant(
        "choco-sgd",
        {"name": "directed-ring"},
        algorithm={"gamma": 0.3, "compressor": TOP_K, "push_sum": True},
    ),
}
# Two convolutions without bias, two norms of three each, a layer of 16 x 4 x 4 to 10.
SIZES = {"choco-8-bits-quasi-global": 9 * 8 + 9 * 8 * 16 + 3 * (8 + 16) + 256 * 10 + 10}
# Variants whose messages and graph others have, too.
ALIKE_OTHERS = (
    "isolated",
    "d-psgd-cta-T2-S2",
    "d-psgd-float64",
    "choco-fresh-top-k",
    "choco-fresh-random-k",
    "choco-fresh-top-k-affine-8",
    "choco-dfa-8-bits",
    "choco-push-sum",
    "full-sgd",
    "k-sgd",
)
# Variants that differ from others in arithmetic alone, which threads and ranks have in common.
COMPUTED_ALIKE = ("all-reduce", "deep-squeeze-sign", "d-psgd-atc")
LAUNCHED = ("choco-stale-qsgd", "sgp-one-peer-exponential")
ALIKE = ("all-reduce", "full-sgd")  # all peers have the same model


def by_debug(factory: pytest.TempPathFactory, name: str, table: Table) -> Path:
    """Return the run folder of an experiment, run once by --debug in a process of the tests."""

    def make(folder: Path) -> None:
        ended = invoke("run", write(folder, table), "--debug", "--out", folder / "run")
        assert ended.exit_code == 0, ended.output

    return made_once(factory, f"debug-{name}", make) / "run"


@pytest.fixture
def debugged(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A function that returns the run folder of a variant, made by --debug."""
    return lambda name: by_debug(tmp_path_factory, name, VARIANTS[name])


def numbers(folder: Path) -> dict[str, tuple[Any, bytes]]:
    """Shape and bytes of all that must not depend on how the run was started."""
    made = {}
    with h5py.File(folder / "run.h5", "r", locking=False) as file:
        assert file.attrs["status"] == "done"
        for group in ("train", "eval", "alignment", "final", "algorithm", "schedule"):
            for name, dataset in file.get(group, {}).items():
                if (group, name) != ("train", "wall"):
                    made[f"{group}/{name}"] = dataset.shape, dataset[...].tobytes()
    return made


def assert_same(folder: Path, other: Path) -> None:
    """Both runs hold the same datasets with the same bytes."""
    here, there = numbers(folder), numbers(other)
    assert here.keys() == there.keys()
    different = [name for name in here if here[name] != there[name]]
    assert not different, f"{folder} and {other} differ in {different}"


def registered() -> set[str]:
    """The algorithms of the package; other tests may have loaded some from files."""
    known = registry.names("algorithm").items()
    return {name for name, cls in known if cls.__module__.startswith("p2psim.")}


def test_every_algorithm_has_a_variant() -> None:
    assert {table["algorithm"]["name"] for table in VARIANTS.values()} == registered()


@pytest.mark.parametrize(
    "name", [thorough(name) if name in ALIKE_OTHERS else name for name in VARIANTS]
)
def test_the_reference_is_a_run_that_learns(name: str, debugged: Reference) -> None:
    """Equal bits mean little where nothing has happened."""
    with h5py.File(debugged(name) / "run.h5", "r", locking=False) as file:
        x, loss = file["final/x"][:], file["train/loss"][:]
        assert x.shape == (PEERS, SIZES.get(name, 64 * 160 + 160 + 160 * 10 + 10))
        assert np.isfinite(x).all()
        assert (loss[:, -1] < loss[:, 0]).any()
        assert (x[0] == x[1]).all() == (name in ALIKE)
        assert file["eval/round"][0].tolist() == [5, 5, 10, 10, 12, 12]
        assert (file["train/time"][:, -1] > 0).all() == ("time" in VARIANTS[name])


@pytest.mark.parametrize(
    "name",
    [
        thorough(name) if name in (*ALIKE_OTHERS, *COMPUTED_ALIKE, *LAUNCHED) else name
        for name in VARIANTS
    ],
)
def test_mpiexec_gives_the_bits_of_debug(name: str, debugged: Reference, tmp_path: Path) -> None:
    file = write(tmp_path, VARIANTS[name])
    ended = run(under_mpiexec(PEERS, p2psim("run", file, "--out", "out")), tmp_path)
    assert ended.code == 0, ended.stderr
    assert_same(tmp_path / "out", debugged(name))


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_launcher_gives_the_bits_of_debug(
    name: str, debugged: Reference, tmp_path: Path
) -> None:
    file = write(tmp_path, VARIANTS[name])
    ended = run(p2psim("run", file, "--out", "out"), tmp_path)
    assert ended.code == 0, ended.stderr
    assert_same(tmp_path / "out", debugged(name))


@pytest.mark.parametrize("way", [thorough("launcher"), "mpiexec"])
def test_large_messages_on_a_complete_graph_give_the_bits_of_debug(
    way: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """3.9 MB from each of five: more than a mix receives at once."""
    table = variant("d-psgd", {"name": "complete"}, model={"hidden": [1000, 900]}, time=TIMES)
    table["rounds"] = 3
    command = p2psim("run", write(tmp_path, table), "--out", "out")
    ended = run(under_mpiexec(PEERS, command) if way == "mpiexec" else command, tmp_path)
    assert ended.code == 0, ended.stderr
    assert_same(tmp_path / "out", by_debug(tmp_path_factory, "large", table))
    with h5py.File(tmp_path / "out/run.h5", "r", locking=False) as done:
        received = 4 * done["final/x"].shape[1] * (PEERS - 1)
        assert (done["train/bytes_received"][:, 0] == received).all()
    assert received > WINDOW


# What starts a thread before the ranks are forked makes that impossible.
THREADED = """
import threading, time
from p2psim.algorithms.d_psgd import DPSGD
from p2psim.registry import plugin

threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()

@plugin("algorithm", "threaded")
class Threaded(DPSGD):
    pass
"""


@pytest.mark.parametrize(
    ("start", "way"),
    [
        thorough("plain", "launcher"),
        ("fallback", "mpiexec"),
        ("refused", "launcher"),
        thorough("refused", "mpiexec"),
    ],
)
def test_without_a_fork_server_the_bits_are_the_same(
    start: str, way: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    (tmp_path / "threaded.py").write_text(THREADED)
    name = "d-psgd" if start == "plain" else "threaded.py:Threaded"
    table = {**VARIANTS["d-psgd-atc"], "peers": 2}
    file = write(tmp_path, {**table, "algorithm": {"name": name}})
    command = p2psim("run", file, "--out", "out")
    if way == "mpiexec":
        command = under_mpiexec(2, command)
    mode = {"plain": "plain", "fallback": "auto", "refused": "forkserver"}[start]
    ended = run(command, tmp_path, variables={"P2PSIM_START": mode})
    assert ended.stderr.count("no fork server") == (start != "plain")
    if start == "refused":
        assert ended.code != 0
        return
    if start == "fallback":
        assert "(it has 2 threads): ranks start one by one" in ended.stderr
    assert ended.code == 0, ended.stderr
    assert_same(tmp_path / "out", by_debug(tmp_path_factory, "two-peers", table))


def test_why_the_fork_server_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('a broken torch')\n")
    command = p2psim("run", write(tmp_path, VARIANTS["isolated"]), "--out", "out")
    variables = {"P2PSIM_START": "forkserver", "PYTHONPATH": str(tmp_path)}
    ended = run(command, tmp_path, variables=variables)
    assert ended.code == 3
    assert "p2psim: no fork server (ImportError at its start: a broken torch)\n" in ended.stderr


def test_the_command_line_of_debug_gives_the_same_bits(debugged: Reference, tmp_path: Path) -> None:
    """The fixture calls p2psim from Python; here is what a user types."""
    file = write(tmp_path, VARIANTS["d-psgd-atc"])
    ended = run(p2psim("run", file, "--debug", "--out", "out"), tmp_path)
    assert ended.code == 0, ended.stderr
    assert_same(tmp_path / "out", debugged("d-psgd-atc"))


def test_another_seed_gives_other_bits(
    debugged: Reference, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = by_debug(tmp_path_factory, "other-seed", {**VARIANTS["d-psgd-atc"], "seed": 2})
    here, there = numbers(other), numbers(debugged("d-psgd-atc"))
    assert here["final/x"] != there["final/x"]


def test_the_summary_of_a_run_says_that_it_is_done(tmp_path: Path) -> None:
    """Whichever rank comes first writes the status; rank 0 prints it."""
    file = write(tmp_path, {**VARIANTS["isolated"], "rounds": 1, "peers": 3})
    ended = run(under_mpiexec(3, p2psim("run", file, "--out", "out")), tmp_path)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.splitlines()[0].startswith("experiment: done ")
    assert ended.stdout.count("experiment: ") == 1  # and only one rank does
