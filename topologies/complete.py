"""Complete graph: everyone talks to everyone, one mixing step averages exactly. Gap 1."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """All edges i - j."""
    return nx.complete_graph(n)
