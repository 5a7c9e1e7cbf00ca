"""Public names of the layers that models are built from.

They are defined in p2psim.models.layers and p2psim.models.sequences. Torch modules are imported on
first use: `Sum`, which adds two tensors in the precision of the run, and `FeedbackPointModule` and
`ErrorTapModule`, the layers FeedbackPoint and ErrorTap for a module of your own.
"""

import importlib
from typing import TYPE_CHECKING, Any

from p2psim.models.layers import (
    Activation,
    Convolution,
    Cost,
    ErrorTap,
    FeedbackPoint,
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
    from p2psim.models.points import ErrorTapModule, FeedbackPointModule

MODULES = {
    "Sum": "norms",
    "FeedbackPointModule": "points",
    "ErrorTapModule": "points",
}  # file of each torch module in p2psim.models

__all__ = [
    "Attention",
    "TokenMean",
    "Convolution",
    "Cost",
    "Embedding",
    "ErrorTap",
    "ErrorTapModule",
    "FeedbackPoint",
    "FeedbackPointModule",
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
    """Import and return a torch module of MODULES; AttributeError for any other name."""
    if name not in MODULES:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"p2psim.models.{MODULES[name]}"), name)
