"""Norms of convolutional networks, and the sum of two branches, as torch modules.

x has the shape (B, C, H, W); gamma (`weight`), beta (`bias`) and v have one entry per channel.
Variances are those of the population (divided by n). The scale inside a norm passes through
`inner`, and the two operands of a `Sum` pass through `left` and `right`. All three are identities,
which learning.int8 replaces by quantizers. A user's own model may use `Sum` for its skip
connections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

EPS = 1e-5
# KAPPA range / sqrt(2 ln n) is about the standard deviation of n Gaussian numbers.
KAPPA = 0.5 * 0.35 * (1 + math.sqrt(math.pi * math.log(4)))
CHUNKS = 16  # of a group's values, in RangeEvoNorm
MOMENTUM = 0.1  # weight of the current batch in running statistics, as in torch

Inner = Callable[[torch.Tensor], torch.Tensor]


def make(kind: str, channels: int, groups: int) -> Any:
    """Build the norm of this name (one of layers.NormKind)."""
    constructors: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "batch": lambda: nn.BatchNorm2d(channels),
        "group": lambda: nn.GroupNorm(groups, channels),
        "evonorm": lambda: EvoNorm(channels, groups),
        "range-bn": lambda: RangeBatchNorm(channels),
        "range-evonorm": lambda: RangeEvoNorm(channels, groups),
    }
    return constructors[kind]()


def identity(x: torch.Tensor) -> torch.Tensor:
    """Return x: the value of `inner` in full precision."""
    return x


def by_channel(v: torch.Tensor) -> torch.Tensor:
    """Reshape v, (C,), to (1, C, 1, 1), which broadcasts over (B, C, H, W)."""
    return v.view(1, -1, 1, 1)


class Scaled(nn.Module):
    """Base of norms with a scale gamma and a shift beta per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.inner: Inner = identity

    def scaled(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return gamma x / scale + beta; `scale` broadcasts over x."""
        # gamma / scale is small, and addcmul then reads x only once.
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
        """Return the factor that makes the norm nonlinear, in the shape of z."""
        return torch.sigmoid(z)

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """Return the divisor of x, (B, C, 1, 1), equal for all channels of a group."""
        variance = x.view(len(x), self.groups, -1).var(-1, correction=0)
        return self.spread(torch.sqrt(variance + EPS), x)

    def spread(self, by_group: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Repeat (B, g) for the channels of each group: (B, C, 1, 1)."""
        return by_group.repeat_interleave(x.shape[1] // self.groups, 1)[:, :, None, None]


class RangeEvoNorm(EvoNorm):
    """y = gamma x h(v x) / (c range(x) + eps) + beta,  h(z) = clamp((z + 3) / 6, 0, 1).

    Aketi, Kodge & Roy 2022, section 4, with the constant that their formula lacks: the n values of
    a sample's group are cut into 16 equal chunks (into one chunk if 16 does not divide n, or if
    n = 16), range = mean of the chunks' maxima - mean of their minima,
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
    Evaluation uses running averages of both, which each peer keeps for itself.
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
        """Return mean and scale of every channel, (C,) each."""
        n = x.numel() // x.shape[1]
        low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
        constant = 1 / math.sqrt(2 * math.log(max(n, 2)))  # ln 1 = 0 would divide by zero
        return x.mean((0, 2, 3)), (high - low) * constant + EPS


class Sum(nn.Module):
    """Sum of two branches, left(a) + right(b)."""

    def __init__(self) -> None:
        super().__init__()
        self.left: nn.Module = nn.Identity()
        self.right: nn.Module = nn.Identity()

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.left(a) + self.right(b)
        return total


class ResidualModule(nn.Module):
    """Sum of two branches of one input, main(x) + shortcut(x)."""

    def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut
        self.sum = Sum()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.sum(self.main(x), self.shortcut(x))
        return output
