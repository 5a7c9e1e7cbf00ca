"""Linear model: logistic, softmax or least-squares regression, depending on the data's loss."""

from __future__ import annotations

from p2psim.base import Shape
from p2psim.models import layers
from p2psim.registry import plugin


@plugin("model", "linear")
class LinearModel(layers.Layered):
    """outputs = W x + b on the flattened sample, with torch's initialization."""

    bias: bool = True

    def layers(self, inputs: Shape, outputs: int) -> list[layers.Layer]:
        return [layers.Flatten(), layers.Linear(outputs, self.bias)]
