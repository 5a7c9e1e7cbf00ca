"""Neural radiance fields as torch modules; see p2psim.models.nerf for the equations.

B is the number of rays, N the number of depths on a ray. All positions of a batch are rows of one
matrix, ray by ray: B N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from p2psim.models.points import ErrorTapModule, FeedbackPointModule

EPSILON = 1e-5  # least weight of an interval, so that rays through empty space have a distribution

DENSITIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softplus": lambda s: functional.softplus(s - 1),
    "relu": functional.relu,
}


@dataclass(frozen=True)
class Rendering:
    """Constants of volume rendering: near and far depth, color behind the scene, density."""

    near: float
    far: float
    background: float
    density: str  # a key of DENSITIES
    noise: float  # standard deviation of the noise on s in training


class FieldModule(nn.Module):
    """Network F of one position and direction in each row: raw color and density (rows, 4).

    `widths` are the inputs of the layers of the trunk, of which layer `skip` + 1 also receives the
    encoded position; `seen` is the number of entries of an encoded direction.
    """

    deterministic = True

    def __init__(self, widths: list[int], width: int, narrow: int, seen: int, skip: int) -> None:
        super().__init__()
        self.skip = skip
        self.trunk = nn.ModuleList(nn.Linear(entries, width) for entries in widths)
        self.density = nn.Linear(width, 1)
        self.feature = nn.Linear(width, width)
        self.direction = nn.Linear(width + seen, narrow)
        self.color = nn.Linear(narrow, 3)
        self.points = nn.ModuleList(FeedbackPointModule() for _ in range(len(widths) + 2))
        self.tap = ErrorTapModule("raw")

    def forward(self, position: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        h, points = position, iter(self.points)
        for number, layer in enumerate(self.trunk):
            if number and number == self.skip + 1:
                h = torch.cat([position, h], 1)
            h = next(points)(layer(h).relu_())
        feature = next(points)(self.feature(h).relu_())
        seen = torch.cat([feature, direction], 1)
        seen = next(points)(self.direction(seen).relu_())
        raw: torch.Tensor = self.tap(torch.cat([self.color(seen), self.density(h)], 1))
        return raw


class RadianceModule(nn.Module):
    """Colors of rays (B, 6) by a coarse network, and by a fine one if `fine_samples` > 0.

    Outputs have the shape (B, 3) or (B, 6). It draws random numbers in training: depths, and noise.
    """

    def __init__(
        self,
        field: Callable[[], FieldModule],
        rendering: Rendering,
        samples: int,
        fine_samples: int,
        frequencies: tuple[int, int],
    ) -> None:
        super().__init__()
        self.rendering, self.samples, self.fine_samples = rendering, samples, fine_samples
        self.frequencies = frequencies  # of positions and of directions
        self.fields = nn.ModuleList(field() for _ in range(2 if fine_samples else 1))

    def forward(self, rays: torch.Tensor) -> torch.Tensor:
        near, far = self.rendering.near, self.rendering.far
        t = near + (far - near) * self.fractions(rays, self.samples)
        color, w = self.render(self.fields[0], rays, t)
        if not self.fine_samples:
            return color
        u = self.fractions(rays, self.fine_samples)
        further = sample_depths(torch.cat([t, torch.full_like(t[:, :1], far)], 1), w.detach(), u)
        t = torch.cat([t, further], 1).sort(1).values
        return torch.cat([color, self.render(self.fields[1], rays, t)[0]], 1)

    def fractions(self, rays: torch.Tensor, count: int) -> torch.Tensor:
        """Return a number in each of `count` equal parts of [0, 1), (B, count), in order.

        It is drawn uniformly from its part in training, and is the middle otherwise.
        """
        starts = torch.arange(count, dtype=rays.dtype, device=rays.device)
        if self.training:
            within = torch.rand(len(rays), count, dtype=rays.dtype, device=rays.device)
            return (starts + within) / count
        return ((starts + 0.5) / count).expand(len(rays), count)

    def render(
        self, field: nn.Module, rays: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the colors of rays (B, 3) and the weights w of the depths t, both (B, N)."""
        (rows, count), origin, d = t.shape, rays[:, :3], rays[:, 3:]
        x = torch.addcmul(origin.unsqueeze(1), t.unsqueeze(2), d.unsqueeze(1)).view(-1, 3)
        length = d.norm(dim=1, keepdim=True)
        direction = encode(d / length, self.frequencies[1])
        repeated = direction.unsqueeze(1).expand(-1, count, -1).reshape(rows * count, -1)
        raw = field(encode(x, self.frequencies[0]), repeated).view(rows, count, 4)
        s, c = raw[..., 3], raw[..., :3].sigmoid()
        if self.training and self.rendering.noise:
            s = s + self.rendering.noise * torch.randn_like(s)
        sigma = DENSITIES[self.rendering.density](s)
        w, rest = weights(sigma, intervals(t, self.rendering.far) * length)
        return (w.unsqueeze(1) @ c).squeeze(1) + rest * self.rendering.background, w


def encode(p: torch.Tensor, frequencies: int) -> torch.Tensor:
    """Return p, (rows, 3), and sines and cosines of 2^l p, l < frequencies: (rows, 3 + 6 L)."""
    scaled = torch.cat([p * 2.0**level for level in range(frequencies)], 1) if frequencies else p
    return torch.cat([p, scaled.sin(), scaled.cos()], 1) if frequencies else p


def intervals(t: torch.Tensor, far: float) -> torch.Tensor:
    """Return t_{i+1} - t_i for ascending depths t, (B, N), with t_{N+1} = far."""
    return torch.cat([t[:, 1:], torch.full_like(t[:, :1], far)], 1) - t


def weights(sigma: torch.Tensor, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights w, (B, N), of the colors on a ray, and the rest 1 - sum w, (B, 1)."""
    thickness = sigma * delta
    transmitted = torch.exp(-thickness.cumsum(1))  # T_{i+1}
    before = torch.cat([torch.ones_like(sigma[:, :1]), transmitted[:, :-1]], 1)  # T_i
    return before * -torch.expm1(-thickness), transmitted[:, -1:]


def sample_depths(edges: torch.Tensor, w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return the depths at which a distribution over intervals reaches the values u, (B, n).

    The distribution is constant between two edges, (B, N + 1), and proportional to w, (B, N). u is
    in [0, 1).
    """
    w = w + EPSILON
    cdf = functional.pad((w / w.sum(1, keepdim=True)).cumsum(1), (1, 0))
    place = torch.searchsorted(cdf, u.contiguous(), right=True).clamp(1, w.shape[1])
    low, high = cdf.gather(1, place - 1), cdf.gather(1, place)
    start, end = edges.gather(1, place - 1), edges.gather(1, place)
    return start + ((u - low) / (high - low)).clamp(0, 1) * (end - start)
