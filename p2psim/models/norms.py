"""Norms of convolutional networks, and the sum of two branches, as torch modules.

x has the shape (B, C, H, W), gamma (`weight`), beta (`bias`) and v one entry per channel; variances
are of the population. What these modules compute inside passes `inner`, and the two operands of a
`Sum` pass `left` and `right`: identities, which precision puts quantizers in the place of. A model
of a user's own may take `Sum` for its skip connections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

EPS = 1e-5
# Of the range of Gaussian numbers, over sqrt(2 ln n): about their standard deviation.
KAPPA = 0.5 * 0.35 * (1 + math.sqrt(math.pi * math.log(4)))
CHUNKS = 16
MOMENTUM = 0.1  # of running statistics

Inner = Callable[[torch.Tensor], torch.Tensor]


def make(kind: str, channels: int, groups: int) -> Any:
    """The norm of this name; see layers.NormKind."""
    made: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "batch": lambda: nn.BatchNorm2d(channels),
        "group": lambda: nn.GroupNorm(groups, channels),
        "evonorm": lambda: EvoNorm(channels, groups),
        "range-bn": lambda: RangeBatchNorm(channels),
        "range-evonorm": lambda: RangeEvoNorm(channels, groups),
    }
    return made[kind]()


def identity(x: torch.Tensor) -> torch.Tensor:
    """What `inner` is in full precision."""
    return x


def by_channel(v: torch.Tensor) -> torch.Tensor:
    """(C,) so that it broadcasts over (B, C, H, W)."""
    return v.view(1, -1, 1, 1)


class Scaled(nn.Module):
    """gamma and beta."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.inner: Inner = identity

    def scaled(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """gamma x / scale + beta; scale broadcasts over x."""
        return torch.addcmul(by_channel(self.bias), x, by_channel(self.weight) / scale)


class EvoNorm(Scaled):
    """y = gamma x sigmoid(v x) / sqrt(var_{H, W, C/g}(x) + eps) + beta.

    EvoNorm-S0 of Liu et al. 2020, table 2, with g groups of channels.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels)
        self.v = nn.Parameter(torch.ones(channels))
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaled(x * self.gate(by_channel(self.v) * x), self.inner(self.scale(x)))

    def gate(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(z)

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, 1, 1): the same for all channels of a group."""
        variance = x.view(len(x), self.groups, -1).var(-1, correction=0)
        return self.spread(torch.sqrt(variance + EPS), x)

    def spread(self, by_group: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(B, g) to (B, C, 1, 1)."""
        return by_group.repeat_interleave(x.shape[1] // self.groups, 1)[:, :, None, None]


class RangeEvoNorm(EvoNorm):
    """y = gamma x h(v x) / (c range(x) + eps) + beta,  h(z) = clamp((z + 3) / 6, 0, 1).

    Aketi, Kodge & Roy 2022, section 4, with the constant that their formula lacks: the n values of
    a sample's group are cut into 16 equal chunks (one, where 16 do not divide n, or would leave
    chunks of one value), range = mean of the chunks' maxima - mean of their minima,
    c = kappa / sqrt(2 ln(values of a chunk)), so that c range is about the standard deviation.
    """

    def gate(self, z: torch.Tensor) -> torch.Tensor:
        return functional.hardsigmoid(z)

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        n = x[0].numel() // self.groups
        chunks = CHUNKS if n % CHUNKS == 0 and n > CHUNKS else 1
        low, high = x.view(len(x), self.groups, chunks, -1).aminmax(dim=-1)
        constant = KAPPA / math.sqrt(2 * math.log(n // chunks))
        return self.spread((high - low).mean(-1) * constant + EPS, x)


class RangeBatchNorm(Scaled):
    """y = gamma (x - mu) / (c range(x) + eps) + beta,  c = 1 / sqrt(2 ln n).

    Range-BN of Banner et al. 2018, section 3: mu and range over the n = B H W values of a channel.
    Their running averages, which evaluation uses, are this peer's own.
    """

    running_mean: torch.Tensor
    running_scale: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_scale", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            mean, scale = self.statistics(x)
            with torch.no_grad():
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_scale.lerp_(scale, MOMENTUM)
        else:
            mean, scale = self.running_mean, self.running_scale
        return self.scaled(x - by_channel(mean), by_channel(self.inner(scale)))

    def statistics(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and scale of every channel, (C,) each."""
        n = x.numel() // x.shape[1]
        low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
        constant = 1 / math.sqrt(2 * math.log(max(n, 2)))
        return x.mean((0, 2, 3)), (high - low) * constant + EPS


class Sum(nn.Module):
    """left(a) + right(b): the sum of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.left: nn.Module = nn.Identity()
        self.right: nn.Module = nn.Identity()

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.left(a) + self.right(b)
        return made


class Residual(nn.Module):
    """main(x) + shortcut(x)."""

    def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut
        self.sum = Sum()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.sum(self.main(x), self.shortcut(x))
        return made
