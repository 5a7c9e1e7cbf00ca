"""Path: a ring with one edge cut; of all connected graphs it mixes nearly the slowest."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Edges i - i+1."""
    return nx.path_graph(n)
