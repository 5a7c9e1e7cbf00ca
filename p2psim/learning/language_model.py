"""Prediction of the next token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Shape, Task
from p2psim.errors import InputError
from p2psim.learning.metrics import SumMetric, check_labels
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch


@plugin("task", "language-model")
class LanguageModel(Task):
    """loss = -(1 / (B T)) sum_bt log softmax(z_bt)_{y_bt} over texts b and positions t.

    y_bt is the token after position t. Metric: perplexity = exp(loss) over all test tokens.
    """

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        if not spec.vocabulary or targets.ndim != 2:
            raise unfit()
        check_labels(targets, spec.outputs)

    def bind(self, spec: DataSpec, own: NDArray[Any]) -> None:
        self.metrics = {
            "perplexity": SumMetric(
                2,
                "exp of the mean negative log-likelihood of the test tokens",
                likelihood,
                lambda s: math.exp(min(s[0] / s[1], 700.0)),
                "lower",
            )
        }

    def output_shape(self, spec: DataSpec) -> Shape:
        if not spec.vocabulary or not isinstance(spec.inputs, tuple):
            raise unfit()
        return (*spec.inputs, spec.outputs)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        from torch.nn import functional

        return functional.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten().long())


def unfit() -> InputError:
    """Return the error for data that have no next token to predict."""
    return InputError(
        "learning.task: 'language-model' needs a data set of token ids with a target for each "
        "token, such as 'text'; choose that, or another task"
    )


def likelihood(outputs: torch.Tensor, batch: Batch) -> list[float]:
    """Return the sum of the tokens' negative log-likelihoods, and the number of tokens."""
    from torch.nn import functional

    logits, targets = outputs.flatten(0, 1).double(), batch.targets.flatten().long()
    return [functional.cross_entropy(logits, targets, reduction="sum").item(), targets.numel()]
