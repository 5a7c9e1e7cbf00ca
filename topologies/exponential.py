"""Static exponential graph: every peer sends to the peers 1, 2, 4, ... ranks ahead. Directed.

Ying, Yuan, Chen, Hu, Pan & Yin, "Exponential Graph is Provably Efficient for Decentralized Deep
Training" (NeurIPS 2021), section 3: for even n the gap is 2 / (1 + ceil(log2 n)).
"""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> nx.DiGraph:
    """Return the graph with the edges i -> i + 2^k mod n for every 2^k < n."""
    circulant = nx.empty_graph(n, create_using=nx.DiGraph)
    for k in range((n - 1).bit_length()):
        circulant.add_edges_from((i, (i + 2**k) % n) for i in range(n))
    return circulant
