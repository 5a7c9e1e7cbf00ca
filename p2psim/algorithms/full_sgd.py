"""Full-SGD: every iteration waits for the gradients of all neighbors."""

from p2psim.algorithms.fastest_k import FastestK
from p2psim.base import Compressor
from p2psim.registry import plugin


@plugin("algorithm", "full-sgd", "Xu 2021, section 2")
class FullSGD(FastestK):
    """g_t = (1/n) sum_i g_i,  x_{t+1} = x_t - lr dir(g_t): lgc-sgd and k-sgd with k = n.

    On a graph that is not complete: x_i <- sum_j W_ij x_j - lr dir(sum_j W_ij g_j).

    Wire: C(g_i) (4d bytes) to every neighbor, 4d more where the graph is not complete.
    """

    k = None
    compressor: Compressor = "identity"  # type: ignore[assignment]
