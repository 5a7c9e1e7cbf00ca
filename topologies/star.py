"""Star: peer 0 is the only neighbor of all other peers."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Return the graph with the edges 0 - i for every i > 0."""
    return nx.star_graph(n - 1)
