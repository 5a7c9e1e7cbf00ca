"""Erdos-Renyi graph G(n, p): every pair is an edge with probability `p`, independently.

Gilbert, "Random Graphs" (1959). The graph is drawn again from the same random stream until it is
connected, which is likely for p of at least ln(n) / n.
"""

from __future__ import annotations

import itertools
import math
import random

import networkx as nx

TRIES = 100


def graph(n: int, p: float = 0.5, seed: int = 0) -> nx.Graph:
    """Draw a connected graph; ValueError if none of the first TRIES graphs is connected."""
    if not 0 < p <= 1:
        raise ValueError(f"p = {p} is no probability that can connect peers: set 0 < p <= 1")
    stream = random.Random(seed)
    for _ in range(TRIES):
        candidate = nx.empty_graph(n)
        pairs = itertools.combinations(range(n), 2)
        candidate.add_edges_from(pair for pair in pairs if stream.random() < p)
        if nx.is_connected(candidate):
            return candidate
    raise ValueError(
        f"no connected graph was found for p = {p} and peers = {n} in {TRIES} draws: "
        f"set p to {math.log(n) / n:.2g} (ln(n) / n) or more"
    )
