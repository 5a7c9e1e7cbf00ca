"""Hypercube: ranks in binary, neighbors differ in one bit; log2(n) neighbors, n a power of two."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Edges i - (i with bit k turned over)."""
    bits = n.bit_length() - 1
    if n != 1 << bits:
        raise ValueError(
            f"a hypercube needs a power of two, not peers = {n}: "
            f"set peers = {1 << bits} or {2 << bits}, or take name = 'exponential'"
        )
    made = nx.empty_graph(n)
    made.add_edges_from((i, i ^ (1 << k)) for i in range(n) for k in range(bits))
    return made
