"""One-peer exponential graph: in round t every peer sends to one other, 2^(t mod period) places on.

Time-varying and directed, period ceil(log2 n). Ying, Yuan, Chen, Hu, Pan & Yin (NeurIPS 2021),
section 4: for n a power of two, one period averages exactly (gap 1). Also Assran et al. (2019).
"""

from __future__ import annotations

import networkx as nx


def graph(n: int) -> list[nx.DiGraph]:
    """Step k: edges i -> i + 2^k mod n."""
    steps = []
    for k in range(max(1, (n - 1).bit_length())):
        made = nx.empty_graph(n, create_using=nx.DiGraph)
        made.add_edges_from((i, (i + 2**k) % n) for i in range(n) if n > 1)
        steps.append(made)
    return steps
