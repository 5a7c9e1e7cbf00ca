"""Link models: pure functions that give the arrival of a message in virtual time."""

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
    """A message arrives at sent_at + latency + bytes / bandwidth, on every edge alike.

    `latency` in seconds, `bandwidth` in bytes per second (unlimited by default). A peer can send
    several messages at the same time.
    """

    latency: NonNegative = 0.0
    bandwidth: Positive | None = None

    @property
    def instant(self) -> bool:
        """True if messages take no time."""
        return not self.latency and self.bandwidth is None

    def bind(self, setting: Setting) -> None: ...

    def occupies(self, sender: int, nbytes: int) -> float:
        return 0.0

    def arrival(self, sender: int, receiver: int, sent_at: float, nbytes: int) -> float:
        return sent_at + self.latency + (nbytes / self.bandwidth if self.bandwidth else 0.0)


@plugin("link", "edges")
class Edges(Uniform):
    """As `uniform`, with the latency (s) and bandwidth (bytes/s) of each edge of the topology.

    The topology's file gives them: as keys of an edge in GraphML and in a graph built in Python, as
    fourth and fifth number of a line of an edge list. The parameters stand for those not given.
    """

    latency: NonNegative = 0.0
    bandwidth: Positive | None = None
    instant = False

    def bind(self, setting: Setting) -> None:
        defaults = {"latency": self.latency, "bandwidth": self.bandwidth or math.inf}
        if not any(np.isfinite(values).any() for values in setting.edges.values()):
            raise InputError(
                "time.link: 'edges' needs a topology whose edges have latency or bandwidth; "
                "give its edges some, or choose 'uniform'"
            )
        n = setting.peers
        matrices = {name: np.full((n, n), value) for name, value in defaults.items()}
        for name, values in setting.edges.items():
            np.copyto(matrices[name], values, where=np.isfinite(values))
        self.latencies, self.bandwidths = matrices["latency"], matrices["bandwidth"]

    def arrival(self, sender: int, receiver: int, sent_at: float, nbytes: int) -> float:
        transfer = nbytes / float(self.bandwidths[receiver, sender])
        return sent_at + float(self.latencies[receiver, sender]) + transfer


@plugin("link", "access")
class Access:
    """Every peer has an uplink and a downlink, in bytes per second: one number, or one per peer.

    A peer sends its messages one after the other, to the lowest rank first; each occupies the
    uplink for bytes / uplink seconds. A message sent at `sent_at` arrives at
    sent_at + latency + bytes / min(uplink of the sender, downlink of the receiver). Messages that
    arrive at the same time do not slow each other down.
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
class LinkTrace:
    """Measured links: columns sender, receiver, latency (s), bandwidth (bytes/s) and time (s).

    A row is valid for messages from this sender to this receiver that are sent from `time` on
    (virtual; 0 without this column) until the next row of the same pair. Every edge needs a row at
    time 0. The file is CSV or HDF5.
    """

    file: str

    def bind(self, setting: Setting) -> None:
        names = ("sender", "receiver", "latency", "bandwidth")
        columns = read_columns(setting.folder / self.file, "time.link.file", *names, time=0.0)
        for name in ("sender", "receiver"):
            check_ranks(f"{self.file}: {name}", columns[name], setting.peers)
        finite = np.isfinite(columns["latency"]) & np.isfinite(columns["time"])
        if not (finite & (columns["latency"] >= 0) & (columns["bandwidth"] > 0)).all():
            raise InputError(
                f"{self.file}: give a finite latency >= 0 and a bandwidth > 0 in every row, "
                "and finite numbers in the column time if there is one"
            )
        self.rows: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
        rows = zip(*(columns[name].tolist() for name in (*names, "time")), strict=True)
        # By time, because `arrival` searches the rows of an edge by bisection.
        for sender, receiver, latency, bandwidth, time in sorted(rows, key=lambda row: row[4]):
            edge = int(sender), int(receiver)
            edge_rows = self.rows.setdefault(edge, [])
            if edge_rows and edge_rows[-1][0] == time:
                raise InputError(
                    f"{self.file}: two rows for the edge from {edge[0]} to {edge[1]} at time "
                    f"{time:g}; keep one"
                )
            edge_rows.append((time, latency, bandwidth))
        for receiver, sender in np.argwhere(setting.linked).tolist():
            if sender != receiver and self.rows.get((sender, receiver), [(math.inf,)])[0][0] > 0:
                raise InputError(
                    f"{self.file}: no row for the edge from {sender} to {receiver} at time 0; "
                    "give every edge of the topology one"
                )

    def occupies(self, sender: int, nbytes: int) -> float:
        return 0.0

    def arrival(self, sender: int, receiver: int, sent_at: float, nbytes: int) -> float:
        if (sender, receiver) not in self.rows:  # all-reduce sends to peers that are no neighbors
            raise ValueError(f"{self.file} has no row for messages from {sender} to {receiver}")
        # The last row that starts at sent_at or before is valid.
        rows = self.rows[sender, receiver]
        number = bisect.bisect_right(rows, sent_at, key=lambda row: row[0]) - 1
        if number < 0:
            raise ValueError(
                f"{self.file} has no row for messages from {sender} to {receiver} at {sent_at:g} s"
            )
        row = rows[number]
        return sent_at + row[1] + nbytes / row[2]
