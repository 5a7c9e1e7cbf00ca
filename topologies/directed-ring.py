"""Directed ring: every peer sends to the next one only. Gap 1 - cos(pi / n).

The graph of Aketi, Kodge & Roy, "Low Precision Decentralized Distributed Training" (2022).
"""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.DiGraph:
    """Edges i -> i+1 mod n; two peers send to each other."""
    made = nx.empty_graph(n, create_using=nx.DiGraph)
    made.add_edges_from((i, (i + 1) % n) for i in range(n) if n > 1)
    return made
