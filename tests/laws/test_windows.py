"""A mix that receives by groups is the mix that receives all at once, in less memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim.network import neighborhood
from p2psim.network.clock import Clock
from p2psim.network.links import Uniform
from p2psim.network.neighborhood import Neighborhood
from p2psim.network.threads import ThreadTransport, run_threads
from p2psim.network.topology import Topology
from p2psim.network.transfer import PeerNeighborhood
from p2psim.network.transport import RequestAlarm, Transport
from tests.support.runs import Table, quadratic_table, quadratics, run_in_threads
from tests.support.thorough import cover

PEERS, D = 7, 24
LARGE = 1000  # entries: more bytes than all headers
TIMES: Table = {
    "compute": {"name": "shifted-exponential", "shift": 0.05, "mean": 0.02, "period": 3},
    "link": {"latency": 1e-3, "bandwidth": 1e4},
}
WANDERING: Table = {"file": "wandering.py", "weights": "out-degree"}
# Directed and from step to step another one; in every second step peer 0 only receives.
GRAPHS = """
import networkx as nx

def graph(n):
    near, far = nx.empty_graph(n, nx.DiGraph), nx.empty_graph(n, nx.DiGraph)
    near.add_edges_from((j, (j + step) % n) for j in range(n) for step in (1, 2, 4))
    far.add_edges_from((i, j) for j in range(1, n) for i in range(n) if i != j)
    return [near, far]
"""
TOP_K: Table = {"name": "top-k", "keep": 0.2}
ALGORITHMS: dict[str, Table] = {
    "dense": {"name": "d-psgd"},
    "while a post is under way": {"name": "d-psgd", "order": "cta"},
    "visited at the start": {"name": "p2pl", "eta_d": 0.3},
    "compressed": {"name": "choco-sgd", "gamma": 0.3, "compressor": TOP_K},
    "directed": {"name": "sgp"},
    "directed, compressed": {
        "name": "deep-squeeze",
        "gamma": 0.3,
        "compressor": {"name": "qsgd", "bits": 4},
        "push_sum": True,
    },
}
CASES = [
    *((name, topology) for name in list(ALGORITHMS)[:4] for topology in ("ring", "complete")),
    *((name, topology) for name in list(ALGORITHMS)[4:] for topology in ("complete", "wandering")),
]


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of the groups of every mix that receives by groups, from now on."""
    seen = []
    in_groups = Neighborhood._in_groups

    def spy(net: Neighborhood, packet: Any, route: Any) -> Any:
        seen.append(len(route.groups[0]))
        return in_groups(net, packet, route)

    monkeypatch.setattr(Neighborhood, "_in_groups", spy)
    return seen


def full(peers: int) -> Topology:
    """Everybody sends to everybody."""
    return Topology(
        np.full((1, peers, peers), 1 / peers), "full", directed=False, rule="edges", links={}
    )


@pytest.mark.parametrize(
    ("name", "topology", "dtype"),
    cover((*case, dtype) for case in CASES for dtype in ("float32", "float64")),
)
def test_groups_change_no_bit_no_count_and_no_time(
    name: str,
    topology: str,
    dtype: str,
    tmp_path: Path,
    groups: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "wandering.py").write_text(GRAPHS)
    table = quadratic_table(
        quadratics(PEERS, D),
        tmp_path,
        ALGORITHMS[name],
        topology=WANDERING if topology == "wandering" else topology,
        rounds=6,
        consensus_steps=2,
        dtype=dtype,
        time=TIMES,
    )
    whole = run_in_threads(table, tmp_path)
    assert not groups
    payload = int(whole.train["bytes_sent"][0, -1] // whole.train["messages_sent"][0, -1])
    # Two messages are all that a peer on the ring receives.
    for window, size in ((1, 1), (2 * payload + 16, 1), (5 * payload, 2)):
        monkeypatch.setattr(neighborhood, "WINDOW", window)
        other = run_in_threads(table, tmp_path)
        # Only the schedule shows that groups were waited for one after the other.
        assert replace(other, schedule=[]).datasets() == replace(whole, schedule=[]).datasets()
        assert set(groups) == ({size} if topology != "ring" or window == 1 else set())
        groups.clear()


@pytest.mark.parametrize("messages", [0.1, 2, 7, 11, 12])
def test_a_mix_receives_into_its_window(messages: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """... or into room for two messages; the same blocks in every round, none beside them."""
    peers, nbytes = 12, 4 * LARGE
    window = int(messages * nbytes)
    monkeypatch.setattr(neighborhood, "WINDOW", window)

    def body(transport: Transport) -> None:
        net = PeerNeighborhood(transport, full(peers), Clock(), Uniform())
        x = np.arange(LARGE, dtype=np.float32) + transport.rank
        for _ in range(5):
            x = net.mix(x)
        sizes = {size: len(kept) for (size, kind), kept in net.pool.arrays.items() if kind == "|u1"}
        held = sum(size * count for size, count in sizes.items() if size >= nbytes)
        assert (peers - 1) * nbytes >= held
        assert max(window, 2 * nbytes) >= held > 0

    run_threads(peers, body)


class Reporting(ThreadTransport):
    """Reports every wait, with all that it waits for."""

    def wait(self, requests: list[Any], alarm: RequestAlarm) -> None:
        alarm(1.5, list(range(len(requests))))
        super().wait(requests, alarm)


def test_an_alarm_names_the_peers_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighborhood, "WINDOW", 4 * 4 * D)
    heard: dict[int, list[tuple[float, list[int]]]] = {}

    def body(transport: Transport) -> None:
        assert isinstance(transport, ThreadTransport)
        said = heard.setdefault(transport.rank, [])
        net = PeerNeighborhood(
            Reporting(transport.hub, transport.rank),
            full(PEERS),
            Clock(),
            Uniform(),
            alarm=lambda seconds, peers: said.append((seconds, peers)),
        )
        net.mix(np.ones(D, np.float32))

    run_threads(PEERS, body)
    for rank, said in heard.items():
        groups = [[j for j in group if j != rank] for group in ([0, 1], [2, 3], [4, 5], [6])]
        # Who has nothing to wait for, as peer 6 in its last group, does not wait.
        assert said == [one for group in groups if group for one in ((1.5, group), (0.0, []))]
