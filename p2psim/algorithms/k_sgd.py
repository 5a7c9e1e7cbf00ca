"""K-SGD: every iteration uses the k fastest gradients only."""

from p2psim.algorithms.fastest_k import FastestK
from p2psim.base import Compressor, Count, Natural
from p2psim.registry import plugin


@plugin("algorithm", "k-sgd", "Xu 2021, section 2; Dutta et al. 2018 (k-sync SGD)")
class KSGD(FastestK):
    """g~_t = (1/k) sum_{i in S_t} g_i,  x_{t+1} = x_t - lr dir(g~_t),  S_t the k fastest of n.

    A slow peer stops when the k fastest have finished, and its gradient is discarded. All else,
    including other graphs than the complete one, is as in lgc-sgd.

    Wire: C(g_i) (4d bytes) to each neighbor that waits for it, 4d more to every neighbor where the
    graph is not complete.
    """

    k: Count
    warmup_rounds: Natural = 0
    compressor: Compressor = "identity"  # type: ignore[assignment]
