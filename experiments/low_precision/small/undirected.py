"""CHOCO-SGD without push-sum, for graphs that CHOCO-SGD refuses."""

from p2psim.algorithms.choco_sgd import ChocoSGD
from p2psim.registry import plugin


@plugin("algorithm", "choco-anyhow")
class Anyhow(ChocoSGD):
    """CHOCO-SGD that accepts a mixing matrix W whose rows do not sum to 1."""

    requires = ("column-stochastic", "static")
