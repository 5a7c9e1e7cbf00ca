"""One-peer exponential graph: in round t each peer sends to the one 2^(t mod period) ranks ahead.

Time-varying and directed, period ceil(log2 n). Ying, Yuan, Chen, Hu, Pan & Yin (NeurIPS 2021),
section 4: for n a power of two, one period averages exactly (gap 1). Also Assran et al. (2019).
"""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> list[nx.DiGraph]:
    """Return the graphs of the period; graph k has the edges i -> i + 2^k mod n."""
    steps = []
    for k in range(max(1, (n - 1).bit_length())):
        step = nx.empty_graph(n, create_using=nx.DiGraph)
        step.add_edges_from((i, (i + 2**k) % n) for i in range(n) if n > 1)
        steps.append(step)
    return steps
