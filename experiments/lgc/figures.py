"""Title and figures of the paper."""

from experiments.lgc.claims import FIGURES, TITLE

__all__ = ["FIGURES", "TITLE"]
