"""Centralized SGD, the upper reference for decentralized methods."""

from p2psim.base import Algorithm, Neighborhood, Oracle, Vector
from p2psim.registry import plugin


@plugin("algorithm", "all-reduce", "upper reference; block-wise as in Patarasuk & Yuan 2009")
class AllReduce(Algorithm):
    """g = (1/n) sum_i g_i(x);  x <- x - lr dir(g), T times a round, the same x on every peer.

    The mean is computed by point-to-point messages between all peers: peer i owns a block of d/n
    entries, receives it from all others, sums in rank order and sends the mean back. W is not used.

    Wire: 2 (n-1)/n * 4d bytes per peer and step, and once at the start, to make x equal everywhere.
    """

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        x[:] = net.mean(x)

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        for _ in range(oracle.local_steps):
            x -= oracle.update(net.mean(oracle.grad(x)), x)
        return x
