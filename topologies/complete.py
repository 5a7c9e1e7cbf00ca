"""Complete graph: all peers are neighbors, so one mixing step averages exactly. Gap 1."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Return the graph with all edges i - j, i != j."""
    return nx.complete_graph(n)
