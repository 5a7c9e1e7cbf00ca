"""Attachment of a learning rule to a module, and the parameters that the rule trains.

Parameters that a rule freezes are no part of the model's vector x: zero gradients would not be
enough, because weight decay and momentum would still change them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from p2psim import rng
from p2psim.base import Data, LearningRule, Model, Shape


def attach(
    rule: LearningRule, module: nn.Module, seed: int, rank: int, data: Data, example: Any
) -> list[torch.Tensor]:
    """Bind a rule to the module of a peer; returns the parameters that it trains, in torch's order.

    `example` is the raw input of a sample, or a dict of arrays; see Scenario.example.
    """

    def key(purpose: str, own: bool = False) -> int:
        # Step 1 is for keys of one peer: those of rank 0 must differ from those of all peers.
        return rng.key(seed, f"rule {purpose}", rank if own else 0, int(own))

    if hasattr(rule, "bind"):
        rule.bind(module, key)
    if hasattr(rule, "prepare"):
        module.eval()
        rule.prepare(module, to_tensors(data, example, next(module.parameters()).dtype))
        module.train()
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def to_tensors(data: Data, inputs: Any, dtype: torch.dtype) -> Any:
    """Return raw inputs of samples without scaling as a tensor, or as a dict of tensors."""

    def tensor(raw: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(raw)).to(input_type(data, raw, dtype))

    if isinstance(inputs, dict):
        return {name: tensor(raw) for name, raw in inputs.items()}
    return tensor(inputs)


def input_type(data: Data, raw: NDArray[Any], dtype: torch.dtype) -> torch.dtype:
    """Return the type in which a model receives raw inputs: int64 for token ids, else `dtype`."""
    ids = bool(data.vocabulary) and np.issubdtype(raw.dtype, np.integer)
    return torch.int64 if ids else dtype


def trained_shapes(model: Model, data: Data, rule: LearningRule, example: Any) -> list[Shape]:
    """Return the shapes of the parameters of a model that a rule trains."""
    module = model.build(data.shape, data.outputs)
    return [tuple(p.shape) for p in attach(rule, module, 0, 0, data, example)]
