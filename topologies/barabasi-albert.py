"""Barabasi-Albert graph: peers join one by one with `m` edges each, preferably to well-connected.

Barabasi & Albert, "Emergence of Scaling in Random Networks" (Science 1999), by networkx. A few hubs
with many neighbors; always connected.
"""

from __future__ import annotations

import networkx as nx


def graph(n: int, m: int = 2, seed: int = 0) -> nx.Graph:
    """A star of m + 1 peers, then each new peer brings m edges."""
    if not 1 <= m < n:
        raise ValueError(
            f"m = {m} is not possible with peers = {n}: it must be from 1 to {n - 1}; "
            f"change m or peers"
        )
    return nx.barabasi_albert_graph(n, m, seed=seed)
