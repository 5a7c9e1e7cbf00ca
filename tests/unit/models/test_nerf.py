"""The model nerf against sums over depths in NumPy, in float64, and its two taps under "dfa"."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from p2psim.base import Batch, DataSpec, Model
from p2psim.errors import InputError
from p2psim.learning.dfa import DirectFeedbackAlignment
from p2psim.learning.shallow import Shallow
from p2psim.learning.view_synthesis import ViewSynthesis
from p2psim.models.radiance import (
    FieldModule,
    RadianceModule,
    Rendering,
    encode,
    sample_depths,
    weights,
)
from p2psim.registry import find
from tests.support.feedback import AutogradLearner, watched

Numbers = NDArray[Any]
Tensor = torch.Tensor
NEAR, FAR, BACKGROUND = 2.0, 6.0, 0.7
SPEC = DataSpec(
    (6,),
    3,
    context={
        name: np.asarray(number)
        for name, number in (("near", NEAR), ("far", FAR), ("background", BACKGROUND))
    },
)
SMALL: dict[str, Any] = {
    "depth": 3,
    "width": 8,
    "skip": 1,
    "position_levels": 2,
    "direction_levels": 1,
    "coarse_samples": 5,
    "fine_samples": 4,
}
RAYS = torch.randn(7, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def model(**params: Any) -> Any:
    network: Any = find("model", "nerf", Path())(**{**SMALL, **params})
    network.bind(SPEC, Path())
    return network


def built(**params: Any) -> RadianceModule:
    """A seeded module in float64, with weights so large that colors and densities differ."""
    torch.manual_seed(3)
    module: RadianceModule = model(**params).build((6,), 3).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


# Volume rendering in NumPy: one ray and one depth at a time


def gamma(p: Numbers, frequencies: int) -> Numbers:
    parts = [p]
    parts += [np.sin(2.0**level * p) for level in range(frequencies)]
    parts += [np.cos(2.0**level * p) for level in range(frequencies)]
    return np.concatenate(parts)


def layer(module: Any, x: Numbers) -> Numbers:
    product: Numbers = module.weight.detach().numpy() @ x + module.bias.detach().numpy()
    return product


def field(module: Any, x: Numbers, d: Numbers, density: str) -> tuple[Numbers, float]:
    """Color and density at a position, from the layers by their names."""
    h = position = gamma(x, 2)
    for number, trunk in enumerate(module.trunk):
        h = np.maximum(layer(trunk, np.concatenate([position, h]) if number == 2 else h), 0)
    s = float(layer(module.density, h)[0])
    feature = np.maximum(layer(module.feature, h), 0)
    seen = np.concatenate([feature, gamma(d / np.linalg.norm(d), 1)])
    raw = layer(module.color, np.maximum(layer(module.direction, seen), 0))
    sigma = math.log1p(math.exp(s - 1)) if density == "softplus" else max(s, 0.0)
    return 1 / (1 + np.exp(-raw)), sigma


def color_of(module: Any, ray: Numbers, t: list[float], density: str) -> tuple[Numbers, Numbers]:
    """Eq. (3): the color of a ray, and the weights of its depths."""
    o, d = ray[:3], ray[3:]
    total, optical, w = np.zeros(3), 0.0, list[float]()
    for depth, end in zip(t, [*t[1:], FAR], strict=True):
        c, sigma = field(module, o + depth * d, d, density)
        thickness = sigma * (end - depth) * float(np.linalg.norm(d))
        w.append(math.exp(-optical) * (1 - math.exp(-thickness)))
        total, optical = total + w[-1] * c, optical + thickness
    return total + math.exp(-optical) * BACKGROUND, np.array(w)


def fine_depths(t: list[float], w: Numbers, count: int) -> list[float]:
    """The depths at which the distribution function reaches (k + 1/2) / count, interpolated."""
    share = (w + 1e-5) / (w + 1e-5).sum()
    function = np.concatenate([[0], np.cumsum(share)])
    depths = np.interp((np.arange(count) + 0.5) / count, function, [*t, FAR])
    return [float(depth) for depth in depths]


@pytest.mark.parametrize("density", ["softplus", "relu"])
def test_colors_are_those_of_a_sum_over_the_depths(density: str) -> None:
    module = built(density=density, noise=1.0).eval()
    outputs = module(RAYS).detach().numpy()
    middle = [NEAR + (FAR - NEAR) * (k + 0.5) / 5 for k in range(5)]
    differences = []
    for ray, output in zip(RAYS.numpy(), outputs, strict=True):
        coarse, w = color_of(module.fields[0], ray, middle, density)
        t = sorted(middle + fine_depths(middle, w, 4))
        fine, _ = color_of(module.fields[1], ray, t, density)
        assert np.abs(output - np.concatenate([coarse, fine])).max() < 1e-12
        differences.append(np.abs(coarse - fine).max())
    assert max(differences) > 0.01  # the networks are not the same


def test_a_model_without_fine_network_gives_the_coarse_color() -> None:
    module = built(fine_samples=0).eval()
    middle = [NEAR + (FAR - NEAR) * (k + 0.5) / 5 for k in range(5)]
    for ray, output in zip(RAYS.numpy(), module(RAYS).detach().numpy(), strict=True):
        color, _ = color_of(module.fields[0], ray, middle, "softplus")
        assert np.abs(output - color).max() < 1e-12


class Fog(nn.Module):
    """A field of one color and density; `raw` is (4,)."""

    def __init__(self, raw: Tensor) -> None:
        super().__init__()
        self.raw = raw

    def forward(self, position: Tensor, direction: Tensor) -> Tensor:
        return self.raw.expand(len(position), 4)


def test_fog_of_constant_density_follows_the_law_of_beer_and_lambert() -> None:
    rendering = Rendering(NEAR, FAR, BACKGROUND, "relu", 0.0)
    module = RadianceModule(lambda: FieldModule([3], 4, 2, 3, 0), rendering, 50, 0, (0, 0))
    sigma, c = 0.3, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    t = torch.linspace(NEAR, 5, 50, dtype=torch.float64).expand(7, -1)
    fog = Fog(torch.cat([c.logit(), torch.tensor([sigma], dtype=torch.float64)]))
    colors, w = module.render(fog, RAYS, t)
    length = (FAR - NEAR) * RAYS[:, 3:].norm(dim=1, keepdim=True)
    through = torch.exp(-sigma * length)
    assert torch.allclose(colors, c * (1 - through) + through * BACKGROUND, atol=1e-12, rtol=0)
    assert torch.allclose(w.sum(1, keepdim=True), 1 - through, atol=1e-12, rtol=0)


def test_weights_of_an_opaque_depth_hide_what_lies_behind() -> None:
    sigma = torch.tensor([[0.0, 1e4, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    w, rest = weights(sigma, torch.full_like(sigma, 0.5))
    assert w.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert rest.tolist() == [[0], [1]]


def test_positional_encoding() -> None:
    p = torch.tensor([[0.25, -1.5, 3.0]], dtype=torch.float64)
    (row,) = encode(p, 2).tolist()
    expected = [0.25, -1.5, 3.0]
    for function in (math.sin, math.cos):
        for level in (1, 2):
            expected += [function(level * value) for value in (0.25, -1.5, 3.0)]
    assert np.abs(np.array(row) - expected).max() < 1e-15
    assert encode(p, 0) is p


# Depths


def test_fine_depths_follow_the_weights() -> None:
    edges = torch.tensor([[0.0, 1, 3, 4, 8], [2, 3, 4, 5, 6]], dtype=torch.float64)
    w = torch.tensor([[0.1, 0.5, 0.0, 0.4], [0, 0, 0, 0]], dtype=torch.float64)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    depths = sample_depths(edges, w, u.expand(2, -1)).numpy()
    for row, shares in enumerate([[0.1, 0.5, 0.0, 0.4], [0.25] * 4]):  # without weights: uniform
        counts, _ = np.histogram(depths[row], edges[row].numpy())
        assert np.abs(counts / 20_000 - shares).max() < 1e-3
        low, high = edges[row, 1:3].tolist()
        second = depths[row][(depths[row] >= low) & (depths[row] < high)]
        assert abs(second.mean() - (low + high) / 2) < 1e-3
        assert abs(second.std() - (high - low) / math.sqrt(12)) < 1e-3


def test_depths_are_random_within_their_parts_in_training_alone() -> None:
    module = built()
    torch.manual_seed(1)
    one, other = (module.fractions(RAYS, 20) for _ in range(2))
    assert not torch.equal(one, other)
    for u in (one, other):
        assert torch.equal((u * 20).floor(), torch.arange(20.0).double().expand(7, -1))
    within = (one * 20) % 1
    assert within.std() > 0.2
    torch.manual_seed(1)
    assert torch.equal(module.fractions(RAYS, 20), one)
    module.eval()
    assert torch.allclose(module.fractions(RAYS, 4)[3], torch.tensor([1, 3, 5, 7]).double() / 8)
    assert torch.equal(module(RAYS), module(RAYS))


def test_noise_acts_in_training_alone() -> None:
    quiet, loud = built(), built(noise=2.0)
    colors = []
    for module in (quiet, loud):
        torch.manual_seed(5)
        colors.append(module(RAYS)[:, :3])
    assert float((colors[0] - colors[1]).detach().abs().max()) > 1e-3
    assert torch.equal(quiet.eval()(RAYS), loud.eval()(RAYS))


# Facts without torch


def test_numbers_of_the_published_network() -> None:
    network: Any = find("model", "nerf", Path())(fine_samples=0)
    weights_of_layers = [
        *(63 * 256, *[256 * 256] * 4, 319 * 256, *[256 * 256] * 2),
        *(256, 256 * 256, 283 * 128, 128 * 3),
    ]
    assert sum(math.prod(shape) for shape in network.shapes((6,), 3)) == 595_844
    assert network.macs((6,), 3) == 64 * sum(weights_of_layers)
    assert network.widest((6,), 3) == 64 * 319
    assert network.output_shape((6,), 3) == (3,)
    both: Any = find("model", "nerf", Path())()
    assert sum(math.prod(shape) for shape in both.shapes((6,), 3)) == 2 * 595_844
    assert both.macs((6,), 3) == (64 + 192) * sum(weights_of_layers)
    assert both.widest((6,), 3) == 192 * 319
    assert both.output_shape((6,), 3) == (6,)


def test_data_without_a_scene_are_refused() -> None:
    network: Model = find("model", "nerf", Path())()
    with pytest.raises(InputError, match=r"nerf: the data set gives no 'near'.*'nerf-synthetic'"):
        network.bind(DataSpec((6,), 3), Path())  # type: ignore[attr-defined]


# Learning rules

TARGETS = torch.rand(7, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return ViewSynthesis().loss(outputs, Batch(RAYS, targets, targets.numel()))


def learn(module: nn.Module, rule: DirectFeedbackAlignment) -> None:
    rule.gradient(AutogradLearner(module, loss), Batch(RAYS, TARGETS, TARGETS.numel()))


def key(purpose: str, own: bool = False) -> int:
    return sum(purpose.encode()) + own


def backpropagated(module: Any) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Gradients of the parameters by torch alone, and the errors at the outputs of the networks."""
    raw: list[Tensor] = []

    def keep(part: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        raw.append(output)

    handles = [part.register_forward_hook(keep) for part in module.fields]
    module.zero_grad()
    loss(module(RAYS), TARGETS).backward()  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    grads = {name: p.grad.clone() for name, p in module.named_parameters()}
    return grads, [output.grad for output in raw if output.grad is not None]


def test_dfa_has_an_error_and_a_matrix_for_each_network() -> None:
    module = built().eval()
    expected, errors = backpropagated(module)
    rule: DirectFeedbackAlignment = find("rule", "dfa", Path())()
    rule.bind(module, key)
    rule.prepare(module, RAYS[:1])
    projected = watched(rule)
    learn(module, rule)
    assert [len(e) for _, e, _ in projected] == [7 * 9, 7 * 5]  # the fine network first
    for (part, e, _), error in zip(projected, reversed(errors), strict=True):
        assert float((e - error).abs().max()) <= 1e-15
        assert [len(end) for end in part.ends] == [len(error)] * 5
    matrices = rule.matrices.drawn
    assert sorted(matrices) == [0, 1]
    assert not torch.equal(matrices[0], matrices[1])
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        difference = float((parameter.grad - expected[name]).abs().max())
        assert (difference <= 1e-15) == (".color." in name or ".density." in name), name


def test_the_layer_before_the_colors_learns_from_the_projected_error() -> None:
    module = built(fine_samples=0).eval()
    rule: DirectFeedbackAlignment = find("rule", "dfa", Path())()
    rule.bind(module, key)
    projected = watched(rule)
    learn(module, rule)
    ((part, e, _),) = projected
    directional: Any = module.fields[0].direction
    h, feature = part.ends[-1].detach(), part.ends[-2].detach()
    seen = encode(RAYS[:, 3:] / RAYS[:, 3:].norm(dim=1, keepdim=True), 1).repeat_interleave(5, 0)
    B = np.random.default_rng(key("feedback 0")).uniform(-1, 1, (4, 8)) / math.sqrt(8)
    delta = (e.detach() @ torch.from_numpy(B)[:, :4]) * (h > 0)
    expected = delta.T @ torch.cat([feature, seen], 1)
    assert float((directional.weight.grad - expected).abs().max()) <= 1e-15


def test_shallow_trains_colors_and_densities_alone() -> None:
    module = built()
    rule: Shallow = find("rule", "shallow", Path())()
    rule.bind(module, key)
    rule.prepare(module.eval(), RAYS[:1])
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    heads = [f"fields.{k}.{head}" for k in (0, 1) for head in ("color", "density")]
    assert trained == {f"{head}.{part}" for head in heads for part in ("weight", "bias")}


def test_no_gradient_passes_through_the_fine_depths() -> None:
    module = built()
    torch.manual_seed(1)
    module(RAYS)[:, 3:].sum().backward()
    sizes = [
        sum(0.0 if p.grad is None else float(p.grad.abs().sum()) for p in network.parameters())
        for network in module.fields
    ]
    assert sizes[0] == 0
    assert sizes[1] > 0
