"""Hypercube: neighbors are ranks that differ in one bit; log2(n) neighbors, n a power of two."""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.Graph:
    """Return the graph with the edges i - (i with bit k flipped); ValueError for other n."""
    bits = n.bit_length() - 1
    if n != 1 << bits:
        raise ValueError(
            f"a hypercube needs a power of two, not peers = {n}: "
            f"set peers = {1 << bits} or {2 << bits}, or take name = 'exponential'"
        )
    cube = nx.empty_graph(n)
    cube.add_edges_from((i, i ^ (1 << k)) for i in range(n) for k in range(bits))
    return cube
