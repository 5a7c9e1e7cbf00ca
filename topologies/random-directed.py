"""Random directed graph: a random cycle through all peers plus random extra edges.

The cycle makes it strongly connected; every other ordered pair is an edge with probability `p`.
In- and out-degrees differ, so no rule by degrees alone makes W doubly stochastic. Push-sum methods
were designed for this case.
"""

from __future__ import annotations

import itertools
import random

import networkx as nx


def graph(n: int, p: float = 0.3, seed: int = 0) -> nx.DiGraph:
    """Draw a random Hamiltonian cycle, and each further edge with probability p."""
    if not 0 <= p <= 1:
        raise ValueError(f"p = {p} is no probability: set 0 <= p <= 1")
    stream = random.Random(seed)
    order = stream.sample(range(n), n)
    digraph = nx.empty_graph(n, create_using=nx.DiGraph)
    digraph.add_edges_from((order[i - 1], order[i]) for i in range(n) if n > 1)
    pairs = itertools.permutations(range(n), 2)
    digraph.add_edges_from(pair for pair in pairs if stream.random() < p)
    return digraph
