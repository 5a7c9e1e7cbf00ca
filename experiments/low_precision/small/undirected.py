"""CHOCO-SGD without push-sum on a graph that it is not made for."""

from p2psim.algorithms.choco_sgd import ChocoSGD
from p2psim.registry import plugin


@plugin("algorithm", "choco-anyhow")
class Anyhow(ChocoSGD):
    """As choco-sgd, but takes a W whose rows do not sum to 1."""

    requires = ("column-stochastic", "static")
