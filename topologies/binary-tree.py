"""Binary tree: peer 0 is the root, peer i's children are 2i+1 and 2i+2 where they exist."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Edges i - (i-1) // 2 for every i > 0."""
    made = nx.empty_graph(n)
    made.add_edges_from((i, (i - 1) // 2) for i in range(1, n))
    return made
