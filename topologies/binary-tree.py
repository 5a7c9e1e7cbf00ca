"""Binary tree: peer 0 is the root, peer i's children are 2i+1 and 2i+2 where they exist."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Return the graph with the edges i - (i-1) // 2 for every i > 0."""
    tree = nx.empty_graph(n)
    tree.add_edges_from((i, (i - 1) // 2) for i in range(1, n))
    return tree
