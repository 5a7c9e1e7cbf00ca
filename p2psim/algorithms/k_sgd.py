"""K-SGD: the k fastest alone."""

from p2psim.algorithms.fastest_k import FastestK
from p2psim.base import Compressor, Count, Natural
from p2psim.registry import plugin


@plugin("algorithm", "k-sgd", "Xu 2021, section 2; Dutta et al. 2018 (k-sync SGD)")
class KSGD(FastestK):
    """g~_t = (1/k) sum_{i in S_t} g_i,  x_{t+1} = x_t - lr dir(g~_t),  S_t the k fastest of n.

    Who is slow stops when the others go on, and what it has is lost. Otherwise as lgc-sgd, also
    on graphs that are not complete.

    Wire: C(g_i) (4d bytes) from who is fast to each neighbor that waits for it, 4d more to every
    neighbor where the graph is not complete.
    """

    k: Count
    warmup_rounds: Natural = 0
    compressor: Compressor = "identity"  # type: ignore[assignment]
