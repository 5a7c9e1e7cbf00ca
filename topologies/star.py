"""Star: peer 0 talks to every other peer, and they only to it."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Edges 0 - i for every i > 0."""
    return nx.star_graph(n - 1)
