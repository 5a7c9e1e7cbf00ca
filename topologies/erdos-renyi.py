"""Erdos-Renyi graph G(n, p): every pair is an edge with probability `p`, independently.

Gilbert, "Random Graphs" (1959). Drawn again from the same stream until connected, which is likely
from p = ln(n) / n on.
"""

from __future__ import annotations

import itertools
import math
import random

import networkx as nx

TRIES = 100


def graph(n: int, p: float = 0.5, seed: int = 0) -> nx.Graph:
    """A connected graph, each pair an edge with probability p."""
    if not 0 < p <= 1:
        raise ValueError(f"p = {p} is no probability that can connect peers: set 0 < p <= 1")
    stream = random.Random(seed)
    for _ in range(TRIES):
        made = nx.empty_graph(n)
        pairs = itertools.combinations(range(n), 2)
        made.add_edges_from(pair for pair in pairs if stream.random() < p)
        if nx.is_connected(made):
            return made
    raise ValueError(
        f"no connected graph was found for p = {p} and peers = {n} in {TRIES} draws: "
        f"set p to {math.log(n) / n:.2g} (ln(n) / n) or more"
    )
