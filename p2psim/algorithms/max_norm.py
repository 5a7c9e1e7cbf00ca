"""Max-norm synchronization: all peers adopt the initial model of largest norm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from p2psim.base import Message, Neighborhood, Shape, Vector
from p2psim.vectors import squared_norm


def synchronize(x: Vector, shapes: Sequence[Shape], rounds: int, net: Neighborhood) -> None:
    """Replace x, in place, by the vector of largest norm in the neighborhood, `rounds` times.

    x <- argmax ||v|| over v in {x_j : j neighbor or self}; each of the `shapes` that x consists of
    is chosen by itself. Of equal norms, the one whose first owner has the lowest rank wins: this
    rank is sent along, while receivers compute the norm. After as many rounds as the graph's
    diameter, all peers hold the same bits.
    Wire: d + len(shapes) numbers per neighbor and round. Pranav & Moura 2310.18861.
    """
    cuts = [0, *itertools.accumulate(math.prod(shape) for shape in shapes)]
    spans = list(itertools.starmap(slice, itertools.pairwise(cuts)))
    norms = [squared_norm(x[span]) for span in spans]
    origins = np.full(len(spans), net.rank, x.dtype)  # ranks of the first owners

    def adopt_larger(_: int, message: Message) -> None:
        theirs, owners = message.value[: x.size], message.value[x.size :]
        for k, span in enumerate(spans):
            norm = squared_norm(theirs[span])
            if (norm, -owners[k]) > (norms[k], -origins[k]):
                norms[k], origins[k], x[span] = norm, owners[k], theirs[span]

    for _ in range(rounds):
        net.for_each(np.append(x, origins), adopt_larger)
