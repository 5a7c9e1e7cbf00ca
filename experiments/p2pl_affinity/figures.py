"""Title and figures of the paper."""

from experiments.p2pl_affinity.claims import FIGURES, TITLE

__all__ = ["FIGURES", "TITLE"]
