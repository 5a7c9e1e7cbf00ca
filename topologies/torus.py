"""Torus: a grid of peers that wraps around on all four sides.

`rows` is the number of grid rows, which must divide n; left out, it is the largest divisor of n
up to sqrt(n), so that the grid is as square as it can be. With 2 rows the neighbor above is the
neighbor below: the doubled edge counts once (2 x 4: three neighbors each, gap 1/2).
"""

from __future__ import annotations

import math

import networkx as nx


def graph(n: int, rows: int | None = None) -> nx.Graph:
    """Edges (r, c) - (r, c+1 mod columns), (r, c) - (r+1 mod rows, c); rank r * columns + c."""
    rows = squarest(n) if rows is None else rows
    if rows < 1 or n % rows:
        divisors = [r for r in range(1, n + 1) if n % r == 0]
        raise ValueError(
            f"rows = {rows} does not divide peers = {n}: take one of {divisors} or leave rows out"
        )
    columns = n // rows
    made = nx.empty_graph(n)
    for rank in range(n):
        r, c = divmod(rank, columns)
        right, below = r * columns + (c + 1) % columns, (r + 1) % rows * columns + c
        made.add_edges_from((rank, other) for other in (right, below) if other != rank)
    return made


def squarest(n: int) -> int:
    """The largest divisor of n up to sqrt(n); ValueError where only a single row would be left."""
    rows = max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
    if rows == 1 and n > 3:
        raise ValueError(
            f"peers = {n} is prime, so there is no torus of two or more rows: "
            f"set peers = {n - 1} or {n + 1}, or take name = 'ring'"
        )
    return rows
