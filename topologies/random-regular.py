"""Random regular graph: every peer has exactly `degree` neighbors, otherwise drawn at random.

Steger & Wormald, "Generating Random Regular Graphs Quickly" (1999), by networkx. The graph is drawn
again from the same random stream until it is connected.
"""

from __future__ import annotations

import random

import networkx as nx

TRIES = 100


def graph(n: int, degree: int = 3, seed: int = 0) -> nx.Graph:
    """Draw a connected graph; ValueError if none of the first TRIES graphs is connected."""
    if not 0 <= degree < n or n * degree % 2:
        raise ValueError(
            f"degree = {degree} is not possible with peers = {n}: it must be from 1 to {n - 1} "
            f"and peers * degree even; change degree or peers"
        )
    stream = random.Random(seed)
    for _ in range(TRIES):
        candidate = nx.random_regular_graph(degree, n, seed=stream)
        if nx.is_connected(candidate):
            return candidate
    raise ValueError(
        f"no connected graph of degree = {degree} was found for peers = {n} in {TRIES} draws: "
        f"set degree to 2 or more"
    )
