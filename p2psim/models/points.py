"""Places in a network where a learning rule may act: identities, unless a rule is bound to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn

from p2psim.errors import InputError

OUTPUTS = "outputs"  # name of the tap at the outputs, which every model has
Action: TypeAlias = "Callable[[FeedbackPointModule, torch.Tensor], torch.Tensor]"


class FeedbackPointModule(nn.Module):
    """Place whose gradient Direct Feedback Alignment replaces by a projection of the error.

    Put it behind an activation. `batch_dims` is the number of leading axes that count rows, each of
    which receives feedback of its own: 1, or 2 where every token of a sample has its own error.
    InputError if it is no number of at least 1.
    """

    deterministic = True  # draws no random numbers

    def __init__(self, batch_dims: int = 1) -> None:
        super().__init__()
        if type(batch_dims) is not int or batch_dims < 1:
            raise InputError(
                f"model: a feedback point or tap has batch_dims = {batch_dims!r}; give the number "
                "of leading axes that count rows, at least 1"
            )
        self.batch_dims = batch_dims
        self.action: Action | None = None  # of a learning rule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.action(self, x) if self.action else x


class ErrorTapModule(FeedbackPointModule):
    """Place at which the error of the points before it is taken; `name` is the choice of a user.

    A model has a tap where the error is not that of its outputs, such as a tap before the last
    layer. Every tap ends the points that the forward pass has passed since the tap before.
    InputError for a name that is empty or that of the outputs.
    """

    def __init__(self, name: str, batch_dims: int = 1) -> None:
        super().__init__(batch_dims)
        if not isinstance(name, str) or name in ("", OUTPUTS):
            raise InputError(
                f'model: a tap has the name {name!r}; give it a text other than "" and '
                f"{OUTPUTS!r}, which learning.rule.tap uses for other choices"
            )
        self.name = name
