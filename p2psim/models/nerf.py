"""Neural radiance field: the colors of rays through a scene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from p2psim.base import Count, DataSpec, Model, Natural, NonNegative, Shape
from p2psim.errors import InputError
from p2psim.models.layers import Cost, Linear
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn

CONTEXT = ("near", "far", "background")  # numbers of the data set that the model needs
Levels = Annotated[int, Meta(ge=0, le=30)]


@plugin("model", "nerf", "Mildenhall et al. 2020; Launay et al. 2020, section 3.1")
class NeRF(Model):
    """Colors of rays r(t) = o + t d by volume rendering of a network F of position and direction.

        t_i ~ U[t_n + (i - 1)(t_f - t_n) / N, t_n + i (t_f - t_n) / N)                       (eq. 2)
        C(r) = sum_i T_i (1 - exp(-sigma_i delta_i)) c_i + T_{N+1} background,
        T_i = exp(-sum_{j < i} sigma_j delta_j),  delta_i = (t_{i+1} - t_i) |d|              (eq. 3)
        gamma(p) = (p, sin(2^0 p), cos(2^0 p), ..., sin(2^{L-1} p), cos(2^{L-1} p))          (eq. 4)
        C_c(r) = sum_i w_i c_i,  w_i = T_i (1 - exp(-sigma_i delta_i))                       (eq. 5)

    (eq. numbers of Mildenhall et al. 2020.) t_n, t_f and the background are the data set's, t_{N+1}
    is t_f. As in the published code, gamma has p itself and no factor pi; L is `position_levels` or
    `direction_levels`. In evaluation t_i is the middle of its part. N is `coarse_samples`. With
    `fine_samples` = n > 0, n depths more are drawn with the density w_i / sum_j w_j, constant from
    t_i to t_{i+1}; a fine network of the same form gives the color from all N + n depths. Outputs
    are then both colors, the coarse one first, and no gradient passes through the depths. Colors
    are sigmoids.

    F: `depth` layers of `width` with ReLU of gamma(x); gamma(x) enters again behind layer `skip`
    (from 0) if another one follows. From their output h: s, linear; a layer of `width` with ReLU,
    then with gamma(d / |d|) one of width / 2 with ReLU, then the color. Density: "softplus",
    sigma = log(1 + exp(s - 1)), or "relu", max(s, 0). `noise` is the standard deviation of normal
    noise on s in training.

    Feedback points follow each ReLU. The tap "raw" takes the error of color and density of each
    network before the volume rendering, which is differentiated exactly.
    """

    depth: Count = 8
    width: Annotated[int, Meta(ge=2)] = 256
    skip: Natural = 4
    position_levels: Levels = 10
    direction_levels: Levels = 4
    coarse_samples: Count = 64
    fine_samples: Natural = 128
    density: Literal["softplus", "relu"] = "softplus"
    noise: NonNegative = 0.0

    samples = "rays"
    precisions = ("fp32",)

    def __post_init__(self) -> None:
        self.near, self.far, self.background = 0.0, 1.0, 0.0  # until `bind`

    def bind(self, spec: DataSpec, folder: Path) -> None:
        missing = [name for name in CONTEXT if name not in spec.context]
        if missing:
            raise InputError(
                f"nerf: the data set gives no {missing[0]!r}; take data 'nerf-synthetic' or 'llff'"
            )
        self.near, self.far, self.background = (float(spec.context[name]) for name in CONTEXT)

    @property
    def depths(self) -> list[int]:
        """Numbers of depths on a ray at which each network is evaluated."""
        fine = [self.coarse_samples + self.fine_samples] if self.fine_samples else []
        return [self.coarse_samples, *fine]

    def trunk(self) -> list[int]:
        """Return the number of inputs of each layer of the trunk."""
        position = 3 + 6 * self.position_levels
        again = [position if layer == self.skip + 1 else 0 for layer in range(1, self.depth)]
        return [position, *(self.width + entries for entries in again)]

    def linear(self, inputs: Shape, outputs: int) -> list[tuple[Linear, int]]:
        """Return the layers of one network with the numbers of their inputs, in torch's order.

        InputError if samples are no rays.
        """
        if inputs != (6,) or outputs != 3:
            raise InputError(
                f"nerf: samples of shape {inputs} with {outputs} outputs; it takes rays of shape "
                "(6,) with 3 colors: take data 'nerf-synthetic' or 'llff'"
            )
        width, half = self.width, self.width // 2
        direction = width + 3 + 6 * self.direction_levels
        heads = [(1, width), (width, width), (half, direction), (3, half)]
        sizes = [*((width, entries) for entries in self.trunk()), *heads]
        return [(Linear(out), entries) for out, entries in sizes]

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        layers = self.linear(inputs, outputs) * len(self.depths)
        return [shape for layer, entries in layers for shape in layer.shapes((entries,))]

    def output_shape(self, inputs: Shape, outputs: int) -> Shape:
        """Return the shape of the outputs for one ray: the colors of all networks in one row."""
        return (outputs * len(self.depths),)

    def cost(self, inputs: Shape, outputs: int) -> Cost:
        """Return the cost of the forward pass of one ray, layers of the networks alone."""
        layers = self.linear(inputs, outputs)
        costs = (layer.cost((n, entries)) for n in self.depths for layer, entries in layers)
        return sum(costs, Cost())

    def macs(self, inputs: Shape, outputs: int) -> int:
        return self.cost(inputs, outputs).macs

    def widest(self, inputs: Shape, outputs: int) -> int:
        """Return the number of entries of the largest activation of one ray."""
        layers = self.linear(inputs, outputs)
        return self.depths[-1] * max(max(entries, layer.width) for layer, entries in layers)

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models.radiance import FieldModule, RadianceModule, Rendering

        self.linear(inputs, outputs)  # checks the shapes
        frequencies = self.position_levels, self.direction_levels
        seen = 3 + 6 * self.direction_levels
        sizes = self.trunk(), self.width, self.width // 2, seen, self.skip
        rendering = Rendering(self.near, self.far, self.background, self.density, self.noise)
        return RadianceModule(
            lambda: FieldModule(*sizes),
            rendering,
            self.coarse_samples,
            self.fine_samples,
            frequencies,
        )
