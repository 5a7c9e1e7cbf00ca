"""Directed ring: every peer sends only to the next one. Gap 1 - cos(pi / n).

The graph of Aketi, Kodge & Roy, "Low Precision Decentralized Distributed Training" (2022).
"""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.DiGraph:
    """Return the graph with the edges i -> i+1 mod n; with n = 2, peers send to each other."""
    ring = nx.empty_graph(n, create_using=nx.DiGraph)
    ring.add_edges_from((i, (i + 1) % n) for i in range(n) if n > 1)
    return ring
