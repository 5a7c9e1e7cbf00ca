"""Base of the models whose samples are nodes, or pairs of nodes, of one graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from p2psim.base import DataSpec, Model, Shape

if TYPE_CHECKING:
    from torch import nn

TAP = "nodes"  # tap at the outputs of all nodes, before those of the minibatch are selected


class GraphModel(Model):
    """Model with one forward pass over the whole graph; a minibatch selects rows of its result.

    The gradient of a minibatch costs as much as that of all samples, so that full minibatches are
    the rule. A subclass defines `layer_shapes` and `network`.
    """

    samples = "nodes"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    def __post_init__(self) -> None:
        self.context: Mapping[str, NDArray[Any]] = {}  # until `bind`

    def bind(self, spec: DataSpec, folder: Path) -> None:
        self.context = spec.context

    @property
    def features(self) -> int:
        """Number of features of a node, F."""
        return int(self.context["feature_width"])

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        return self.layer_shapes(self.features, outputs)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models.graph_modules import SelectedNodes

        return SelectedNodes(self.network(self.features, outputs), TAP)

    def layer_shapes(self, features: int, outputs: int) -> list[Shape]:
        """Return the shapes of the parameters for this number of features and of outputs."""
        raise NotImplementedError

    def network(self, features: int, outputs: int) -> nn.Module:
        """Return the torch module: nothing -> (nodes, outputs)."""
        raise NotImplementedError
