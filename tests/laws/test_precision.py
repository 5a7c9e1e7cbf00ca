"""Eight bits: I18, the quantizers against their formulas, and what the layers do with them."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from p2psim import registry
from p2psim.errors import InputError
from p2psim.learning import int8
from p2psim.learning.int8 import Exact, Int8, quantize_model
from p2psim.models import norms
from tests.support.runs import Table, quadratic_table, quadratics, run_in_threads

KINDS = ["batch", "group", "evonorm", "range-bn", "range-evonorm"]
DIGITS: Table = {
    "name": "test",
    "peers": 4,
    "rounds": 6,
    "data": {"name": "digits", "batch_size": 16},
    "model": {"name": "convnet", "channels": [4, 8], "norm": "range-evonorm"},
    "learning": {"precision": "int8", "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
    "algorithm": {"name": "choco-sgd", "gamma": 1.0, "compressor": "affine-8"},
    "topology": {"name": "ring"},
    "eval": {"every": 3},
}


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard Gaussian numbers in float64."""
    made: torch.Tensor = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))
    return made


def seeded(make: Any) -> Any:
    """The same module each time."""
    torch.manual_seed(0)
    return make()


def spread(module: nn.Module) -> nn.Module:
    """Parameters that are not all 0 or 1."""
    for number, p in enumerate(module.parameters()):
        p.data += 0.3 * tensor(*p.shape, seed=number + 9)
    return module


class Block(nn.Module):
    """conv - norm - conv - norm, plus x: with stride 2 through another convolution and norm."""

    def __new__(cls, kind: str, stride: int) -> Any:
        main = nn.Sequential(
            nn.Conv2d(4, 6, 3, stride, 1, bias=False),
            norms.make(kind, 6, 2),
            nn.Conv2d(6, 6, 3, 1, 1),
            norms.make(kind, 6, 2),
        )
        shortcut = nn.Sequential(nn.Conv2d(4, 6, 1, stride, bias=False), norms.make(kind, 6, 2))
        return norms.ResidualModule(main, shortcut)


class Halved(nn.Linear):
    """A layer that is a torch layer and computes otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 2


class Standardized(nn.Conv2d):
    """Its weights have mean 0 and variance 1 over each output channel's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return functional.conv2d(x, w, self.bias, self.stride, self.padding)


class Twice(nn.Module):
    """The same block in two places, and once more inside one of them."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12), nn.Tanh())
        self.one, self.other = nn.Sequential(block), nn.Sequential(block, block[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.other(self.one(x))
        return made


def weight_norm() -> nn.Module:
    """By hooks, as torch did it before parametrizations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        made: nn.Module = nn.utils.weight_norm(nn.Linear(12, 5))
    return made


IMAGES, ROWS = (5, 4, 8, 8), (5, 7, 12)
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv2d(4, 6, 3, 2, 1), IMAGES),
    "conv-plain": (lambda: nn.Conv2d(4, 6, 3, bias=False), IMAGES),
    "conv-in-groups": (lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), IMAGES),
    "conv-1d": (lambda: nn.Conv1d(7, 3, 3, padding=1), ROWS),
    "linear": (lambda: nn.Linear(12, 5), (9, 12)),
    "linear-plain": (lambda: nn.Linear(12, 5, bias=False), (9, 12)),
    "linear-on-rows": (lambda: nn.Linear(12, 5), ROWS),
    "linear-on-one-row": (lambda: nn.Linear(12, 5), (12,)),
    "linear-of-ones-own": (lambda: Halved(12, 5), (9, 12)),
    "linear-with-hooks": (weight_norm, (9, 12)),
    "linear-twice": (Twice, (9, 12)),
    "conv-same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), IMAGES),
    "conv-circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), IMAGES),
    "conv-transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2), IMAGES),
    "conv-of-ones-own": (lambda: Standardized(4, 6, 3), IMAGES),
    "layer-norm": (lambda: nn.LayerNorm(12), ROWS),
    "rms-norm": (lambda: nn.RMSNorm(12), ROWS),
    "instance-norm": (lambda: nn.InstanceNorm2d(4, affine=True), IMAGES),
    **{kind: (lambda kind=kind: norms.make(kind, 4, 2), IMAGES) for kind in KINDS},
    **{f"block-{kind}": (lambda kind=kind: Block(kind, 1), IMAGES) for kind in KINDS},
    **{f"halving-{kind}": (lambda kind=kind: Block(kind, 2), IMAGES) for kind in KINDS},
}


@pytest.mark.parametrize("name", LAYERS)
def test_with_identities_for_quantizers_it_is_autograd(name: str) -> None:
    make, shape = LAYERS[name]
    plain, twin = (spread(seeded(make).double()) for _ in range(2))
    split = quantize_model(twin, Exact)
    assert any(isinstance(part, int8.Wrapper) for part in split.modules())
    found = []
    for module in (plain, split):
        x = tensor(*shape, seed=1).requires_grad_()
        y = module(x)
        (y * tensor(*y.shape, seed=2)).sum().backward()
        found.append([y, x.grad, *(p.grad for p in module.parameters())])
        module.eval()
        found[-1].append(module(x))
    for wanted, got in zip(*found, strict=True):
        assert wanted.shape == got.shape
        assert (got - wanted).norm() <= 1e-12 * wanted.norm()


@pytest.mark.parametrize("name", ["resnet", "vgg11"])
def test_whole_networks_with_identities_are_autograd(name: str) -> None:
    given: Table = {"norm": "range-evonorm", **({"head": "hidden"} if name == "vgg11" else {})}
    plain = registry.names("model")[name](**given).build((3, 32, 32), 10).double()
    split = quantize_model(copy.deepcopy(plain), Exact)
    shapes = [p.shape for p in plain.parameters()]
    assert shapes == [p.shape for p in split.parameters()]
    grads = []
    for module in (plain, split):
        torch.manual_seed(3)  # dropout
        loss = module(tensor(2, 3, 32, 32)).square().mean()
        grads.append(torch.autograd.grad(loss, list(module.parameters())))
    for wanted, got in zip(*grads, strict=True):
        assert (got - wanted).norm() <= 1e-12 * wanted.norm()


# A small form of every model of images, and what it takes; those of texts have tests of their own.
MODELS: dict[str, tuple[Table, tuple[int, ...]]] = {
    "cnn": ({}, (1, 8, 8)),
    "convnet": ({}, (1, 8, 8)),
    "linear": ({}, (1, 8, 8)),
    "mlp": ({"hidden": [9]}, (1, 8, 8)),
    "resnet": ({"depth": 8, "width": 4}, (3, 12, 12)),
    "resnet18": ({"width": 2}, (3, 32, 32)),
    "vgg11": ({"norm": "group"}, (3, 32, 32)),
}


def test_every_model_is_here() -> None:
    known = registry.names("model").items()
    images = {
        name
        for name, cls in known
        if getattr(cls, "samples", "") == "numbers" and "int8" in getattr(cls, "precisions", ())
    }
    assert set(MODELS) == {name for name in images if ".py:" not in name}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_computes_in_8_bits(name: str) -> None:
    given, shape = MODELS[name]
    torch.manual_seed(0)
    plain = registry.names("model")[name](**given).build(shape, 10).double()
    low = quantize_model(copy.deepcopy(plain))
    x, y = tensor(6, *shape), torch.arange(6) % 10
    found = []
    for module in (plain, low):
        loss = functional.cross_entropy(module(x), y)
        grads = torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True)
        found.append(torch.cat([grad.reshape(-1) for grad in grads]))
    wanted, got = found
    assert not torch.equal(wanted, got)
    assert functional.cosine_similarity(wanted, got, dim=0) > 0.8


def q(x: Any, low: float, high: float) -> Any:
    """The quantizer, entry by entry in NumPy."""
    sigma = max((high - low) / 255, 1e-8)
    return np.clip(np.round((x - low) / sigma), 0, 255) * sigma + low


def test_i18_error_idempotence_and_constants() -> None:
    for scale in (1e-3, 1.0, 1e4):
        x = scale * tensor(1000)
        made = Int8.tensor(x)
        sigma = float(x.max() - x.min()) / 255
        assert (made - x).abs().max() <= sigma / 2 * (1 + 1e-12)
        assert torch.equal(Int8.nearest(made, *x.aminmax()), made)
        assert np.allclose(made, q(x.numpy(), float(x.min()), float(x.max())), rtol=1e-13, atol=0)
        assert len(set(made.tolist())) <= 256
    assert torch.equal(Int8.tensor(torch.full((9,), 0.3)), torch.full((9,), 0.3))


def test_gradients_are_rounded_without_bias() -> None:
    torch.manual_seed(0)
    g = tensor(40)
    sigma = float(g.max() - g.min()) / 255
    draws = torch.stack([Int8.gradient(g) for _ in range(4000)])
    assert (draws - g).abs().max() < sigma * (1 + 1e-9)
    inside = (g > g.min() + sigma) & (g < g.max() - sigma)  # next to the ends the clamp shows
    # One draw has at most sigma / 2 of deviation: five of the mean's.
    assert ((draws.mean(0) - g).abs()[inside] < 5 * sigma / 2 / math.sqrt(4000)).all()
    nearest = torch.stack([Int8.tensor(g) for _ in range(2)])
    assert torch.equal(*nearest)


def test_a_layer_takes_quantized_inputs_weights_and_gradients(monkeypatch: Any) -> None:
    noiseless = lambda g: int8.affine(g, *g.aminmax())  # noqa: E731
    monkeypatch.setattr(Int8, "gradient", staticmethod(noiseless))
    layer = nn.Linear(12, 5).double()
    x, up = tensor(9, 12, seed=1).requires_grad_(), tensor(9, 5, seed=2)
    y = quantize_model(copy.deepcopy(layer), Int8)(x)
    lowered_grads = torch.autograd.grad((y * up).sum(), x)
    a, w, b = x.detach().numpy(), layer.weight.detach().numpy(), layer.bias.detach().numpy()
    qx = q(a, a.min(axis=1).mean(), a.max(axis=1).mean())
    qw, g = q(w, w.min(), w.max()), up.numpy()
    assert np.abs(y.detach().numpy() - (qx @ qw.T + q(b, b.min(), b.max()))).max() < 1e-12
    assert np.abs(lowered_grads[0].numpy() - q(g, g.min(), g.max()) @ qw).max() < 1e-12
    module = quantize_model(copy.deepcopy(layer), Int8)
    gw, gb = torch.autograd.grad((module(x) * up).sum(), list(module.parameters()))
    assert np.abs(gw.numpy() - g.T @ qx).max() < 1e-12  # the gradient of weights is not quantized
    assert np.abs(gb.numpy() - g.sum(axis=0)).max() < 1e-12


def test_running_ranges_are_used_in_evaluation_and_are_no_parameters() -> None:
    layer = quantize_model(nn.Linear(6, 2))
    known = int8.InputQuantizer(Int8)
    first, second = torch.rand(4, 6), 3 * torch.rand(4, 6)
    known(first)
    known(second)
    bounds = [np.array([x.min(1).values.mean(), x.max(1).values.mean()]) for x in (first, second)]
    expected = 0.1 * bounds[0] + 0.9 * bounds[1]
    assert np.allclose([known.low, known.high], expected, rtol=1e-6)
    known.eval()
    assert np.allclose(known(first), q(first.numpy(), *expected), atol=1e-6)
    assert np.allclose([known.low, known.high], expected, rtol=1e-6)
    assert len(list(layer.parameters())) == 2
    assert {name for name, _ in layer.named_buffers()} == {
        "input_quantizer.low",
        "input_quantizer.high",
    }


def test_an_int8_run_repeats_and_differs_from_fp32(tmp_path: Path) -> None:
    one, two = run_in_threads(DIGITS, tmp_path), run_in_threads(DIGITS, tmp_path)
    assert one.datasets() == two.datasets()
    full = {**DIGITS, "learning": {**DIGITS["learning"], "precision": "fp32"}}
    other = run_in_threads(full, tmp_path)
    gap = np.linalg.norm(one.x - other.x) / np.linalg.norm(other.x)
    assert 0 < gap < 0.3
    assert one.x.shape == other.x.shape  # ranges are not among what is gossiped


def test_what_has_no_layers_is_refused(tmp_path: Path) -> None:
    table = quadratic_table(quadratics(4), tmp_path, "d-psgd")
    table["learning"]["precision"] = "int8"
    with pytest.raises(InputError, match=r"precision = 'int8': model 'vector' has no layer"):
        run_in_threads(table, tmp_path)


def test_a_transformer_of_torch_can_be_lowered() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    exact, low = (quantize_model(copy.deepcopy(layer), kind) for kind in (Exact, Int8))
    x = tensor(3, 5, 8)
    for mode in (layer.train, layer.eval):
        mode()
        exact.train(layer.training)
        with torch.no_grad():
            assert (exact(x) - layer(x)).norm() <= 1e-12 * layer(x).norm()
    kinds = [type(part).__name__ for part in low.modules()]
    assert (kinds.count("QuantizedLayer"), kinds.count("QuantizedNorm")) == (2, 2)
    low(x).square().sum().backward()
    assert all(p.grad is not None for p in low.parameters())


def test_what_a_layer_does_itself_it_does_in_8_bits_too() -> None:
    layer, x = nn.Linear(6, 2), torch.rand(4, 6)
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda *told: seen.append(told[2]))
    quantize_model(layer)(x)
    assert len(seen) == 2
    half: Any = quantize_model(Halved(6, 2))
    assert (half(x) - half.layer(x)).abs().max() < 0.1 < half.layer(x).abs().max()
    assert not torch.equal(half(x), half.layer(x))


def test_a_layer_that_stands_twice_is_quantized_once() -> None:
    made = quantize_model(Twice())
    kinds = [type(part).__name__ for part in made.modules()]
    assert (kinds.count("QuantizedLayer"), kinds.count("QuantizedNorm")) == (1, 1)
    assert made.one[0] is made.other[0]  # type: ignore[index]
    assert made.other[1] is made.other[0][0]  # type: ignore[index]


def test_a_layer_tells_what_it_is() -> None:
    linear: Any = quantize_model(nn.Linear(6, 2))
    norm: Any = quantize_model(nn.BatchNorm2d(3))
    assert (linear.in_features, linear.out_features) == (6, 2)
    assert (norm.eps, norm.num_features) == (1e-5, 3)
    with pytest.raises(AttributeError, match="nothing"):
        assert linear.nothing


@pytest.mark.parametrize("model", [nn.GELU(), nn.MultiheadAttention(4, 2), nn.LSTM(3, 3)])
def test_a_model_without_such_layers_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match='"int8": the model has no convolution'):
        quantize_model(model)


def test_what_is_not_known_stays_as_it_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3), nn.GELU())
    made = quantize_model(module)
    assert type(made[0]) is nn.Embedding  # type: ignore[index]
    assert made(torch.tensor([[1, 2]])).shape == (1, 3)


def test_sums_of_a_users_own_model_are_quantized() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sum = norms.Sum()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.sum(x, x.square())
            return made

    x = tensor(5, 7)
    made = quantize_model(Twice())(x).numpy()
    parts = [(v, v.min(1).mean(), v.max(1).mean()) for v in (x.numpy(), x.square().numpy())]
    assert np.abs(made - sum(q(*part) for part in parts)).max() < 1e-6
    assert np.abs(made - (x + x.square()).numpy()).max() > 1e-4
