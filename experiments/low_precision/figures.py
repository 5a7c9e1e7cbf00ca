"""Title and figures of the paper."""

from experiments.low_precision.claims import FIGURES, TITLE

__all__ = ["FIGURES", "TITLE"]
