"""Undirected ring: neighbors are the ranks before and after. Gap 1 - (1 + 2 cos(2 pi / n)) / 3."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Return the graph with the edges i - i+1 mod n; with n = 2, one edge."""
    ring = nx.empty_graph(n)
    ring.add_edges_from((i, (i + 1) % n) for i in range(n) if n > 1)
    return ring
