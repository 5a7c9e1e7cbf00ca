"""Virtual time of networks: links, schedules, forecasts and stragglers, against hand and theory."""

from __future__ import annotations

import itertools
import time as real
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from p2psim.analysis import results, timeline
from p2psim.experiment import plan, scenario
from p2psim.network.clock import TRANSFER, WAIT, WORK
from tests.laws.test_plan import CASES
from tests.support.programs import invoke
from tests.support.runs import Run, Table, new_folder, quadratic_table, quadratics, run_in_threads

TOLERANCE = 1e-12
PEERS = 4
NBYTES = 64  # 8 numbers of 8 bytes: what d-psgd sends
EDGES = """
0 1  1  0.25  128   # u v weight latency bandwidth: half a second for 64 bytes
1 2  1  0.5   32
2 3  1  1     64
3 0  1  0     16
"""
TRAVEL = {(0, 1): 0.25 + 0.5, (1, 2): 0.5 + 2, (2, 3): 1 + 1.0, (3, 0): 0 + 4.0}
WORKS = [1.0, 2.0, 3.0, 4.0]
EACH: Table = {"name": "constant", "seconds_per_step": WORKS}


def table(folder: Path, time: Table, *, peers: int = PEERS, **options: Any) -> Table:
    """d-psgd on a ring that holds 8 float64 numbers."""
    options = {"rounds": 5, "algorithm": "d-psgd", **options}
    return quadratic_table(quadratics(peers, d=8), folder, time=time, **options)


def ring_by_hand(rounds: int, travel: dict[tuple[int, int], float]) -> NDArray[np.float64]:
    """now_i = max(own, neighbors' + travel) after each round of the ring 0-1-2-3."""
    now, rows = list(WORKS), []
    both = {**travel, **{(v, u): seconds for (u, v), seconds in travel.items()}}
    for _ in range(rounds):
        now = [
            max(now[i], *(now[j] + both[j, i] for j in ((i - 1) % PEERS, (i + 1) % PEERS)))
            for i in range(PEERS)
        ]
        rows.append(list(now))
        now = [at + seconds for at, seconds in zip(now, WORKS, strict=True)]
    return np.array(rows).T


def edge_list(folder: Path) -> Table:
    (folder / "slow.edgelist").write_text(EDGES)
    return {"file": "slow.edgelist"}


def test_latency_and_bandwidth_of_each_edge_by_hand(tmp_path: Path) -> None:
    made = table(
        tmp_path, {"compute": EACH, "link": {"name": "edges"}}, topology=edge_list(tmp_path)
    )
    got = run_in_threads(made, tmp_path).train["time"]
    # Round 1: 0 has 3's model at 4 + 4, 1 has 2's at 3 + 2.5, 2 has 3's at 4 + 2, 3 has 0's at 5.
    assert np.abs(got[:, 0] - [8, 5.5, 6, 5]).max() <= TOLERANCE
    assert np.abs(got - ring_by_hand(5, TRAVEL)).max() <= TOLERANCE


def test_the_edges_of_a_python_graph_and_of_graphml(tmp_path: Path) -> None:
    (tmp_path / "graph.py").write_text(
        "import networkx as nx\n"
        "def graph(n):\n"
        "    made = nx.cycle_graph(n)\n"
        "    for (u, v), (l, b) in {(0, 1): (.25, 128), (1, 2): (.5, 32), (2, 3): (1, 64),\n"
        "                           (0, 3): (0, 16)}.items():\n"
        "        made[u][v].update(latency=l, bandwidth=b)\n"
        "    return made\n"
    )
    namespace: dict[str, Any] = {}
    exec((tmp_path / "graph.py").read_text(), namespace)
    namespace["nx"].write_graphml(namespace["graph"](PEERS), tmp_path / "graph.graphml")
    for file in ("graph.py", "graph.graphml"):
        made = table(
            tmp_path, {"compute": EACH, "link": {"name": "edges"}}, topology={"file": file}
        )
        got = run_in_threads(made, tmp_path).train["time"]
        assert np.abs(got - ring_by_hand(5, TRAVEL)).max() <= TOLERANCE


def test_edges_that_say_nothing_take_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "some.edgelist").write_text("0 1 1 .25 128\n1 2\n2 3\n3 0\n")
    link = {"name": "edges", "latency": 0.5, "bandwidth": 64.0}
    made = table(tmp_path, {"compute": EACH, "link": link}, topology={"file": "some.edgelist"})
    travel = dict.fromkeys(TRAVEL, 1.5) | {(0, 1): 0.75}
    got = run_in_threads(made, tmp_path).train["time"]
    assert np.abs(got - ring_by_hand(5, travel)).max() <= TOLERANCE


def test_messages_share_their_senders_uplink(tmp_path: Path) -> None:
    # A star: the hub works 1 s, a leaf 2. A leaf's model is with the hub at 2 + 64 / 64. The hub's
    # leave one after the other, each in 64 / 32 s, and a leaf's downlink takes 64 / 16 s for one.
    link = {"name": "access", "uplink": [32.0, 64.0, 64.0, 64.0], "downlink": 16.0, "latency": 0.5}
    time = {"compute": {"name": "constant", "seconds_per_step": [1.0, 2.0, 2.0, 2.0]}, "link": link}
    got = run_in_threads(table(tmp_path, time, topology="star", rounds=1), tmp_path).train["time"][
        :, 0
    ]
    assert np.abs(got - [2 + 0.5 + 4, 1 + 4.5, 3 + 4.5, 5 + 4.5]).max() <= TOLERANCE


@pytest.mark.parametrize("kind", ["csv", "h5"])
def test_measured_steps_and_links(kind: str, tmp_path: Path) -> None:
    steps = {"peer": [0, 1, 2, 3, 0], "seconds": [1.0, 2.0, 3.0, 4.0, 7.0]}
    pairs = [(u, v) for edge in TRAVEL for u, v in (edge, edge[::-1])]
    links = {
        "sender": [u for u, _ in pairs] + [3],
        "receiver": [v for _, v in pairs] + [0],
        "latency": [1.0] * len(pairs) + [9.0],
        "bandwidth": [64.0] * len(pairs) + [64.0],
        "time": [0.0] * len(pairs) + [6.5],
    }
    for name, columns in (("steps", steps), ("links", links)):
        path = tmp_path / f"{name}.{kind}"
        if kind == "csv":
            rows = zip(*columns.values(), strict=True)
            lines = [",".join(columns), *(", ".join(map(str, row)) for row in rows)]
            path.write_text("\n".join(lines) + "\n")
        else:
            with h5py.File(path, "w") as file:
                for column, values in columns.items():
                    file[column] = values
    time = {
        "compute": {"name": "trace", "file": f"steps.{kind}"},
        "link": {"name": "trace", "file": f"links.{kind}"},
    }
    got = run_in_threads(table(tmp_path, time, rounds=2), tmp_path).train["time"]
    # Round 1 ends at max(own, neighbors' + 2); then 0 works 7 s, and what 3 sends it takes 10.
    assert np.abs(got[:, 0] - [6, 5, 6, 5]).max() <= TOLERANCE
    assert np.abs(got[:, 1] - [9 + 10, 13 + 2, 9 + 2, 13 + 2]).max() <= TOLERANCE


def test_a_ring_goes_as_fast_as_its_slow_peer(tmp_path: Path) -> None:
    slow = {"name": "slow-peers", "peers": [3], "factor": 10.0}
    run = run_in_threads(table(tmp_path, {"compute": slow}, peers=8, rounds=60), tmp_path)
    spent = np.diff(run.train["time"], axis=1)
    # Peers far from it feel it after as many rounds as they are away.
    assert (spent[:, 5:] == 10).all()
    assert (spent[7, :2] == 1).all()


def test_slow_from_one_step_to_another(tmp_path: Path) -> None:
    slow = {"name": "slow-peers", "peers": [1], "factor": 3.0, "first": 2, "last": 3, "of": EACH}
    run = run_in_threads(table(tmp_path, {"compute": slow}, algorithm="isolated"), tmp_path)
    assert (run.train["time"][1] == np.cumsum([2, 2, 6, 6, 2])).all()
    assert (run.train["time"][2] == np.cumsum([3] * 5)).all()


# Plans


RANDOM = {"name": "shifted-exponential", "period": 2}
LINKS: dict[str, Table] = {
    "none": {},
    "uniform": {"latency": 0.01, "bandwidth": 1e4},
    "access": {"name": "access", "uplink": 3e4, "latency": 1e-3},
}
EXACT = sorted(set(CASES) - {name for name in CASES if name[:5] in ("k-sgd", "lgc-s", "async")})


@pytest.mark.parametrize(("name", "link"), list(zip(EXACT, itertools.cycle(LINKS), strict=False)))
def test_the_plan_knows_the_virtual_time(name: str, link: str, tmp_path: Path) -> None:
    from tests.laws.test_plan import experiment

    algorithm, topology = CASES[name]
    made = experiment(algorithm, topology, rounds=5)
    made["learning"]["local_steps"] = 2
    made["time"] = {"compute": RANDOM, "link": LINKS[link]}
    run = run_in_threads(made, tmp_path)
    said = plan.plan(scenario.load(made, tmp_path))["virtual time"]
    wanted = run.train["time"].max()
    if name == "all-reduce" and link != "none":  # its blocks are of two sizes
        np.testing.assert_allclose(float(said.split()[0].replace(",", "")), wanted, rtol=1e-2)
    else:
        assert said == f"{wanted:,.6g} s"


# Schedules


def scheduled(folder: Path, made: Table) -> tuple[Run, list[NDArray[Any]]]:
    """The run and what its peers wrote down."""
    place = new_folder(folder)
    run = run_in_threads(made, folder)
    return run, results.schedules(place)


@pytest.mark.parametrize("name", sorted(CASES))
def test_work_and_waiting_fill_the_time_of_every_peer(name: str, tmp_path: Path) -> None:
    from tests.laws.test_plan import experiment

    algorithm, topology = CASES[name]
    made = experiment(algorithm, topology, rounds=6)
    made["time"] = {"compute": RANDOM, "link": LINKS["uniform"]}
    run, events = scheduled(tmp_path, made)
    for rank, own in enumerate(events):
        busy = own[own["kind"] != TRANSFER]
        assert busy["begin"][0] == 0
        assert (busy["begin"][1:] == busy["end"][:-1]).all()
        assert busy["end"][-1] == run.train["time"][rank, -1]
        assert set(np.unique(own["round"])) <= set(range(7))
        waits = own[own["kind"] == WAIT]
        ends = {(row["other"], row["end"]) for row in own[own["kind"] == TRANSFER]}
        assert {(row["other"], row["end"]) for row in waits} <= ends


def test_the_critical_path_by_hand(tmp_path: Path) -> None:
    made = table(
        tmp_path, {"compute": EACH, "link": {"name": "edges"}}, topology=edge_list(tmp_path)
    )
    run, events = scheduled(tmp_path, {**made, "rounds": 2})
    path = timeline.TimelineWindow(events, 1, 2).critical()
    assert run.train["time"][:, 1].tolist() == [13.0, 11.5, 11.0, 13.0]
    # 3 works to 4, its model is with 0 at 8; 0 works to 9, its model is with 3 at 13 (a tie with
    # 3's second, there at 9 + 4 too: the path goes back from the peer of lower rank).
    assert path == [(0, 9.0, 13.0, 3), (3, 5.0, 9.0, -1), (3, 1.0, 5.0, 0), (0, 0.0, 1.0, -1)]


def test_the_timeline_says_who_was_idle(tmp_path: Path) -> None:
    slow = {"name": "slow-peers", "peers": [3], "factor": 10.0}
    place = new_folder(tmp_path)
    run_in_threads(table(tmp_path, {"compute": slow}, peers=8, rounds=20), tmp_path)
    said = invoke("plot", place, "--timeline", "--rounds", "9:20")
    assert said.exit_code == 0, said.output
    assert (place / "timeline.png").stat().st_size > 10_000
    assert "the critical path takes 120 s, of which 120 s work" in said.output
    assert said.output.count("90.0 %") == 7
    assert "0.0 %" in said.output


def test_growth_and_switch(tmp_path: Path) -> None:
    """A schedule of more events than a new file has room for; none if none is wanted."""
    made = table(tmp_path, {"compute": EACH, "link": LINKS["uniform"]}, rounds=500)
    _, events = scheduled(tmp_path, made)
    assert [own.size for own in events] > [1024] * PEERS
    made["time"]["schedule"] = False
    place = new_folder(tmp_path)
    run_in_threads(made, tmp_path)
    assert not list(place.glob("peers/schedule*"))
    said = invoke("plot", place, "--timeline")
    assert said.exit_code == 2
    assert "has no schedule" in said.output


def test_work_of_one_round_is_one_event(tmp_path: Path) -> None:
    _, events = scheduled(tmp_path, table(tmp_path, {"compute": EACH}, local_steps=7, rounds=3))
    for own in events:
        assert (own["kind"] == WORK).sum() == 3


# Real time


def test_realized_time_is_felt_and_changes_no_bit(tmp_path: Path) -> None:
    each = {"name": "constant", "seconds_per_step": [0.01, 0.02, 0.03, 0.08]}
    made = table(tmp_path, {"compute": each, "link": {"latency": 0.01}}, rounds=10)
    plain = run_in_threads(made, tmp_path)
    made["time"]["realize"] = True
    began = real.monotonic()
    felt = run_in_threads(made, tmp_path)
    assert real.monotonic() - began >= felt.train["time"].max()
    assert felt.datasets() == plain.datasets()
    assert (felt.train["wall"] >= felt.train["time"]).all()
