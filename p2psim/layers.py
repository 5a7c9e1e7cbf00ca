"""Public names of the layers that models are built from.

They are defined in p2psim.models.layers and p2psim.models.sequences. `Sum`, the torch module that
adds two tensors in the precision of the run, is imported on first use, because it needs torch.
"""

from typing import TYPE_CHECKING, Any

from p2psim.models.layers import (
    Activation,
    Convolution,
    Cost,
    Flatten,
    GlobalAveragePool,
    Layer,
    Layered,
    Linear,
    MaxPool,
    Norm,
    Residual,
)
from p2psim.models.sequences import Attention, Embedding, FirstToken, LayerNorm, TokenMean

if TYPE_CHECKING:
    from p2psim.models.norms import Sum

__all__ = [
    "Attention",
    "TokenMean",
    "Convolution",
    "Cost",
    "Embedding",
    "FirstToken",
    "Flatten",
    "Layer",
    "LayerNorm",
    "Layered",
    "Linear",
    "MaxPool",
    "GlobalAveragePool",
    "Norm",
    "Activation",
    "Residual",
    "Sum",
]


def __getattr__(name: str) -> Any:
    """Import and return `Sum`; AttributeError for any other name."""
    if name == "Sum":
        from p2psim.models.norms import Sum

        return Sum
    raise AttributeError(name)
