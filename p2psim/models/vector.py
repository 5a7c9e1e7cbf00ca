"""Linear map without bias on raw rows, for problems whose data are matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from p2psim.base import Model, Shape
from p2psim.errors import InputError
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("model", "vector")
class Vector(Model):
    """One output a @ x for each row a of the data, with x the parameter vector; x starts at 0."""

    precisions = ("fp32",)

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        if outputs != 1:
            raise InputError(
                f"vector: it has one output, the data asks for {outputs}; take data 'quadratic' "
                f"or 'libsvm', or model 'linear'"
            )
        return [(math.prod(inputs),)]

    def macs(self, inputs: Shape, outputs: int) -> int:
        return math.prod(inputs)

    def build(self, inputs: Shape, outputs: int) -> torch.nn.Module:
        import torch

        class Product(torch.nn.Module):
            def __init__(self, d: int) -> None:
                super().__init__()
                self.x = torch.nn.Parameter(torch.zeros(d))

            def forward(self, rows: torch.Tensor) -> torch.Tensor:
                return (rows.flatten(1) @ self.x).unsqueeze(1)

        return Product(*self.shapes(inputs, outputs)[0])
