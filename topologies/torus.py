"""Torus: a grid of peers that wraps around on all four sides.

`rows` is the number of grid rows, which must divide n. By default it is the largest divisor of n
up to sqrt(n), which makes the grid as square as possible. With 2 rows the neighbor above is also
the neighbor below: the double edge counts once (2 x 4: three neighbors each, gap 1/2).
"""

from __future__ import annotations

import math

import networkx as nx


def graph(n: int, rows: int | None = None) -> nx.Graph:
    """Return the graph with edges to the right, (r, c) - (r, c+1 mod columns), and down.

    The edges down are (r, c) - (r+1 mod rows, c); (r, c) is the rank r * columns + c.
    """
    rows = most_square_rows(n) if rows is None else rows
    if rows < 1 or n % rows:
        divisors = [r for r in range(1, n + 1) if n % r == 0]
        raise ValueError(
            f"rows = {rows} does not divide peers = {n}: take one of {divisors} or leave rows out"
        )
    columns = n // rows
    torus = nx.empty_graph(n)
    for rank in range(n):
        r, c = divmod(rank, columns)
        right, below = r * columns + (c + 1) % columns, (r + 1) % rows * columns + c
        torus.add_edges_from((rank, other) for other in (right, below) if other != rank)
    return torus


def most_square_rows(n: int) -> int:
    """Return the largest divisor of n up to sqrt(n); ValueError for a prime n > 3."""
    rows = max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
    if rows == 1 and n > 3:
        raise ValueError(
            f"peers = {n} is prime, so there is no torus of two or more rows: "
            f"set peers = {n - 1} or {n + 1}, or take name = 'ring'"
        )
    return rows
