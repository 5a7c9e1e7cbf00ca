"""Link models: when a message arrives, in virtual time. Pure functions."""

from __future__ import annotations

import bisect
import math

import numpy as np

from p2psim.base import NonNegative, Positive, Setting
from p2psim.errors import InputError
from p2psim.network.peer_values import broadcast_to_peers, check_ranks, read_columns
from p2psim.registry import plugin


@plugin("link", "uniform")
class Uniform:
    """Every edge: sent_at + latency + bytes / bandwidth; without `bandwidth` there is no limit."""

    latency: NonNegative = 0.0
    bandwidth: Positive | None = None

    def bind(self, setting: Setting) -> None: ...

    def occupies(self, sender: int, nbytes: int) -> float:
        return 0.0

    def arrival(self, sender: int, receiver: int, sent_at: float, nbytes: int) -> float:
        return sent_at + self.latency + (nbytes / self.bandwidth if self.bandwidth else 0.0)


@plugin("link", "edges")
class Edges(Uniform):
    """`latency` and `bandwidth` of each edge as the topology gives them, else those given here.

    They are attributes of the graph's edges: keys in GraphML and in a graph of Python, the fourth
    and fifth number of a line of an edge list.
    """

    latency: NonNegative = 0.0
    bandwidth: Positive | None = None

    def bind(self, setting: Setting) -> None:
        usual = {"latency": self.latency, "bandwidth": self.bandwidth or math.inf}
        if not any(np.isfinite(given).any() for given in setting.edges.values()):
            raise InputError(
                "time.link: 'edges' needs a topology whose edges have latency or bandwidth; "
                "give it some, or choose 'uniform'"
            )
        n = setting.peers
        filled = {name: np.full((n, n), value) for name, value in usual.items()}
        for name, given in setting.edges.items():
            np.copyto(filled[name], given, where=np.isfinite(given))
        self.latencies, self.bandwidths = filled["latency"], filled["bandwidth"]

    def arrival(self, sender: int, receiver: int, sent_at: float, nbytes: int) -> float:
        transfer = nbytes / float(self.bandwidths[receiver, sender])
        return sent_at + float(self.latencies[receiver, sender]) + transfer


@plugin("link", "access")
class Access:
    """Every peer has an uplink and a downlink, in bytes per second: one number, or one for each.

    Messages leave one after the other, to the lowest rank first, each for bytes / uplink seconds;
    one that sets out at `sent_at` is there at sent_at + latency + bytes / min(uplink of its sender,
    downlink of its receiver). Several that come in at a time do not slow each other.
    """

    uplink: Positive | list[Positive]
    downlink: Positive | list[Positive] | None = None
    latency: NonNegative = 0.0

    def bind(self, setting: Setting) -> None:
        self.up = broadcast_to_peers(self.uplink, "time.link.uplink", setting.peers)
        down = math.inf if self.downlink is None else self.downlink
        self.down = broadcast_to_peers(down, "time.link.downlink", setting.peers)

    def occupies(self, sender: int, nbytes: int) -> float:
        return nbytes / self.up[sender]

    def arrival(self, sender: int, receiver: int, sent_at: float, nbytes: int) -> float:
        return sent_at + self.latency + nbytes / min(self.up[sender], self.down[receiver])


@plugin("link", "trace")
class Trace:
    """Measured links: columns sender, receiver, latency, bandwidth and, if you like, time.

    A row holds for what sets out from `time` on (virtual seconds, 0 if not given), until the next
    row of that edge. CSV or HDF5.
    """

    file: str

    def bind(self, setting: Setting) -> None:
        wanted = ("sender", "receiver", "latency", "bandwidth")
        columns = read_columns(setting.folder / self.file, "time.link.file", *wanted, time=0.0)
        for name in ("sender", "receiver"):
            check_ranks(f"{self.file}: {name}", columns[name], setting.peers)
        finite = np.isfinite(columns["latency"]) & np.isfinite(columns["time"])
        if not (finite & (columns["latency"] >= 0) & (columns["bandwidth"] > 0)).all():
            raise InputError(
                f"{self.file}: give a finite latency >= 0, bandwidth > 0 in every row, and a "
                "finite time if any"
            )
        self.rows: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
        rows = zip(*(columns[name].tolist() for name in (*wanted, "time")), strict=True)
        for sender, receiver, latency, bandwidth, time in sorted(rows, key=lambda row: row[4]):
            edge = int(sender), int(receiver)
            known = self.rows.setdefault(edge, [])
            if known and known[-1][0] == time:
                raise InputError(
                    f"{self.file}: two rows for the edge from {edge[0]} to {edge[1]} at time "
                    f"{time:g}; keep one"
                )
            known.append((time, latency, bandwidth))
        for receiver, sender in np.argwhere(setting.linked).tolist():
            if sender != receiver and self.rows.get((sender, receiver), [(math.inf,)])[0][0] > 0:
                raise InputError(
                    f"{self.file}: no row for the edge from {sender} to {receiver} at time 0; "
                    "give every edge of the topology one"
                )

    def occupies(self, sender: int, nbytes: int) -> float:
        return 0.0

    def arrival(self, sender: int, receiver: int, sent_at: float, nbytes: int) -> float:
        if (sender, receiver) not in self.rows:  # as in all-reduce, beside the topology
            raise ValueError(f"{self.file} has no row for messages from {sender} to {receiver}")
        rows = self.rows[sender, receiver]
        row = rows[bisect.bisect_right(rows, sent_at, key=lambda row: row[0]) - 1]
        return sent_at + row[1] + nbytes / row[2]
