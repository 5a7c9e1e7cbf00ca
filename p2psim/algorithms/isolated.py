"""SGD without communication, the lower reference for decentralized methods."""

from p2psim.base import Algorithm
from p2psim.registry import plugin


@plugin("algorithm", "isolated", "lower reference")
class Isolated(Algorithm):
    """x_i <- x_i - lr dir_i(x_i), T times a round; sends nothing."""
