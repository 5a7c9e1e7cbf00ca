"""Path: a ring without one edge; it mixes nearly the slowest of all connected graphs."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Return the graph with the edges i - i+1."""
    return nx.path_graph(n)
