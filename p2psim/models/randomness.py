"""Modules that need no random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Classes of torch.nn that draw no random numbers; a module of another class may draw some.
DETERMINISTIC = frozenset(
    [
        "Sequential",
        "ModuleList",
        "ParameterList",
        "Flatten",
        "Linear",
        "Conv2d",
        "MaxPool2d",
        "AdaptiveAvgPool2d",
        "BatchNorm1d",
        "BatchNorm2d",
        "GroupNorm",
        "LayerNorm",
        "Embedding",
        "Identity",
        "ReLU",
        "Tanh",
        "GELU",
    ]
)


def draws_nothing(module: nn.Module) -> bool:
    """Return True if the module certainly draws no random numbers, in any of its parts.

    Classes outside torch say so by an attribute `deterministic`.
    """
    return all(
        getattr(kind, "deterministic", False)
        or (kind.__module__.startswith("torch.nn.") and kind.__name__ in DETERMINISTIC)
        for kind in {type(part) for part in module.modules()}
    )
