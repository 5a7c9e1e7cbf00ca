"""Undirected ring: every peer talks to the two beside it. Gap 1 - (1 + 2 cos(2 pi / n)) / 3."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Edges i - i+1 mod n; two peers share one edge."""
    made = nx.empty_graph(n)
    made.add_edges_from((i, (i + 1) % n) for i in range(n) if n > 1)
    return made
