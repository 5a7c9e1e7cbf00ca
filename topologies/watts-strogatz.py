"""Watts-Strogatz small world: ring lattice of `k` neighbors, edges rewired with probability `p`.

Watts & Strogatz, "Collective dynamics of 'small-world' networks" (Nature 1998), by networkx. The
graph is drawn again from the same random stream until it is connected. p = 0 is the ring lattice.
"""

from __future__ import annotations

import random

import networkx as nx

TRIES = 100


def graph(n: int, k: int = 4, p: float = 0.1, seed: int = 0) -> nx.Graph:
    """Draw a connected graph with n * k / 2 edges; ValueError if TRIES draws give none."""
    if k < 2 or k % 2 or k >= n:
        raise ValueError(
            f"k = {k} is not possible with peers = {n}: it must be even, from 2 to {n - 1}; "
            f"change k or peers"
        )
    if not 0 <= p <= 1:
        raise ValueError(f"p = {p} is no probability: set 0 <= p <= 1")
    stream = random.Random(seed)
    for _ in range(TRIES):
        candidate = nx.watts_strogatz_graph(n, k, p, seed=stream)
        if nx.is_connected(candidate):
            return candidate
    raise ValueError(
        f"no connected graph was found for k = {k}, p = {p} and peers = {n} in {TRIES} draws: "
        f"set a larger k or a smaller p"
    )
