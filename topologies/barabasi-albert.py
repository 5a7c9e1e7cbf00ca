"""Barabasi-Albert graph: each new peer gets `m` edges to peers drawn in proportion to degree.

Barabasi & Albert, "Emergence of Scaling in Random Networks" (Science 1999), by networkx. It has a
few hubs with many neighbors, and is always connected.
"""

from __future__ import annotations

import networkx as nx


def graph(n: int, m: int = 2, seed: int = 0) -> nx.Graph:
    """Return the graph that grows from a star of m + 1 peers, with m edges per new peer."""
    if not 1 <= m < n:
        raise ValueError(
            f"m = {m} is not possible with peers = {n}: it must be from 1 to {n - 1}; "
            f"change m or peers"
        )
    return nx.barabasi_albert_graph(n, m, seed=seed)
