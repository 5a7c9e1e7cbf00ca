"""Random directed graph: a random cycle through all peers plus random extra edges.

The cycle makes it strongly connected; every other ordered pair is an edge with probability `p`, so
that in- and out-degrees differ and no rule by degree alone makes W doubly stochastic: the case that
push-sum methods are made for.
"""

from __future__ import annotations

import itertools
import random

import networkx as nx


def graph(n: int, p: float = 0.3, seed: int = 0) -> nx.DiGraph:
    """A random Hamiltonian cycle and each further edge with probability p."""
    if not 0 <= p <= 1:
        raise ValueError(f"p = {p} is no probability: set 0 <= p <= 1")
    stream = random.Random(seed)
    order = stream.sample(range(n), n)
    made = nx.empty_graph(n, create_using=nx.DiGraph)
    made.add_edges_from((order[i - 1], order[i]) for i in range(n) if n > 1)
    pairs = itertools.permutations(range(n), 2)
    made.add_edges_from(pair for pair in pairs if stream.random() < p)
    return made
