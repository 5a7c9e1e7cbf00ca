"""Models: what `shapes` promises is what torch holds."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from p2psim import registry
from p2psim.base import Shape
from p2psim.errors import InputError
from p2psim.models.layers import NormKind
from tests.support.texts import TINY

IMAGES: list[Shape] = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 5, 9)]
NORMS = get_args(NormKind)
CASES: list[tuple[str, dict[str, Any], Shape, int]] = [
    *[("cnn", {}, shape, 10) for shape in IMAGES],
    *[("mlp", {}, shape, 10) for shape in IMAGES],
    *[("linear", {}, shape, 10) for shape in IMAGES],
    ("cnn", {"channels": [4], "hidden": 3}, (1, 2, 3), 2),
    ("cnn", {"channels": [4, 5, 6]}, (1, 8, 8), 1),
    ("mlp", {"hidden": []}, (123,), 1),
    ("mlp", {"hidden": [128, 128, 128], "activation": "tanh"}, (1, 8, 8), 10),
    ("linear", {}, (123,), 1),
    ("linear", {"bias": False}, (123,), 1),
    ("convnet", {}, (1, 8, 8), 10),
    ("convnet", {"norm": "none", "channels": [3, 4, 5]}, (3, 9, 7), 2),
    *[("resnet", {"norm": norm, "width": 4}, (3, 32, 32), 10) for norm in NORMS],
    ("resnet", {"depth": 8, "groups": 4, "zero_scale": True}, (1, 9, 9), 3),
    ("resnet18", {"width": 4}, (3, 64, 64), 10),
    ("vgg11", {}, (3, 32, 32), 10),
    ("vgg11", {"head": "hidden", "norm": "range-evonorm"}, (3, 32, 32), 10),
    ("vgg11", {}, (3, 64, 70), 10),
    ("vector", {}, (7,), 1),
    ("vector", {}, (2, 3), 1),
    ("transformer", {}, (64,), 4),
    ("transformer", {"width": 9, "heads": 3, "blocks": 1, "ff": 5}, (7,), 1),
    ("distilbert", {"path": str(TINY), "from_scratch": True}, (32,), 4),
    ("distilbert", {"path": str(TINY), "from_scratch": True}, (5,), 1),
    ("logistic-regression", {}, (23,), 1),
    ("fm", {"dim": 3}, (23,), 1),
    ("deepfm", {"dim": 3, "hidden": [7, 5, 6]}, (23,), 1),
    ("dcn", {"dim": 3, "hidden": [7, 5]}, (23,), 1),
    ("dcn", {"dim": 2, "hidden": [], "cross": 1, "dropout": 0.0}, (23,), 1),
    ("afn", {"dim": 3, "hidden": [7, 5], "neurons": 9}, (23,), 1),
    ("afn", {"hidden": []}, (23,), 1),
    ("nerf", {"depth": 3, "skip": 0, "width": 8, "fine_samples": 0}, (6,), 3),
    ("nerf", {"depth": 7, "width": 5, "coarse_samples": 3, "fine_samples": 2}, (6,), 3),
]
NEEDED: dict[str, dict[str, Any]] = {"distilbert": {"path": str(TINY), "from_scratch": True}}


def model(name: str, **params: Any) -> Any:
    """One that the scenario has told of a vocabulary, if it needs one."""
    made: Any = registry.names("model")[name](**{**NEEDED.get(name, {}), **params})
    if made.samples == "tokens":
        made.vocabulary = 100
    if made.samples == "fields":
        made.vocabulary = [4] * 23
    return made


def samples(model: Any, *shape: int) -> Any:
    """Random ones."""
    import torch

    if model.samples == "fields":
        return torch.randint(0, 4 * 23, shape)
    return torch.randint(0, 100, shape) if model.samples == "tokens" else torch.randn(shape)


@pytest.mark.parametrize(("name", "params", "inputs", "outputs"), CASES)
def test_shapes_are_those_of_torch(
    name: str, params: dict[str, Any], inputs: Shape, outputs: int
) -> None:
    """A model that needs no seed also leaves torch's generator as it is."""
    import torch

    from p2psim.models.randomness import draws_nothing

    network = model(name, **params)
    module = network.build(inputs, outputs)
    parameters = [tuple(p.shape) for p in module.parameters()]
    assert network.shapes(inputs, outputs) == parameters
    norm = params.get("norm")
    normalized = norm in ("batch", "range-bn") or name in ("deepfm", "dcn", "afn")
    normalized &= params.get("hidden") != [] or name == "afn"
    assert bool(list(module.buffers())) == (normalized or network.samples == "tokens")
    assert module.training
    given, before = samples(network, 5, *inputs), torch.default_generator.get_state()
    made = module(given)
    assert made.shape == (5, 2 * outputs if params.get("fine_samples") else outputs)
    made.square().mean().backward()
    after = torch.default_generator.get_state()
    assert torch.equal(before, after) or not draws_nothing(module)
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(("name", "nothing"), [("cnn", True), ("mlp", True), ("distilbert", False)])
def test_which_models_need_a_seed(name: str, nothing: bool) -> None:
    from p2psim.models.randomness import draws_nothing

    network = model(name)
    assert (
        draws_nothing(network.build((5,) if network.samples == "tokens" else (1, 8, 8), 2))
        == nothing
    )


# Models of graphs and of categorical fields need a data set: tests of their own build them.
GENERAL = [
    name
    for name, cls in registry.names("model").items()
    if getattr(cls, "samples", "numbers") in ("numbers", "tokens")
]


@pytest.mark.parametrize("name", GENERAL)
def test_shapes_of_every_model(name: str) -> None:
    made = model(name)
    compared = 0
    for inputs, outputs in [*((shape, 10) for shape in IMAGES), ((23,), 1), ((6,), 3)]:
        try:
            shapes = made.shapes(inputs, outputs)
        except InputError:
            continue
        compared += 1
        assert shapes == [tuple(p.shape) for p in made.build(inputs, outputs).parameters()]
    assert compared


def test_known_numbers_of_parameters() -> None:
    def count(name: str, inputs: Shape, **given: Any) -> int:
        shapes = model(name, **given).shapes(inputs, 10)
        return sum(math.prod(shape) for shape in shapes)

    assert count("mlp", (1, 28, 28)) == 199_210  # McMahan et al. 2017: 2NN
    assert count("linear", (1, 28, 28)) == 7_850
    assert count("cnn", (3, 32, 32)) == 448 + 4_640 + 2048 * 64 + 64 + 650
    for norm in ("evonorm", "range-evonorm"):  # Aketi et al. 2022
        assert count("resnet", (3, 32, 32), norm=norm) == 273_258
        assert count("resnet", (3, 32, 32), norm=norm, depth=54) == 760_458
        assert count("vgg11", (3, 32, 32), norm=norm, head="hidden") == 9_496_522
    assert count("vgg11", (3, 32, 32), head="hidden") == 9_488_266
    assert count("vgg11", (3, 32, 32)) == 9_225_610  # Xu 2021
    # By hand: embeddings, two blocks of four squares, two norms and 64-128-64, a norm, the head.
    block = 4 * (64 * 64 + 64) + 4 * 64 + 2 * 64 * 128 + 128 + 64
    assert count("transformer", (9,)) == 6_400 + 2 * block + 2 * 64 + 650
    # torchvision's ResNet-18 has 11,689,512 for 1000 classes, batch norm and two per channel.
    assert count("resnet18", (3, 224, 224), norm="batch") == 11_689_512 - 513_000 + 5_130


def test_the_same_seed_gives_the_same_start() -> None:
    import torch

    for name in ("mlp", "cnn", "transformer", "distilbert"):
        made = []
        for _ in range(2):
            torch.manual_seed(7)
            network = model(name)
            module = network.build((8,) if network.samples == "tokens" else (1, 8, 8), 10)
            made.append(torch.nn.utils.parameters_to_vector(module.parameters()))
        assert torch.equal(*made)


def test_vector_is_the_product_and_starts_at_zero() -> None:
    import torch

    module = registry.names("model")["vector"]().build((3,), 1)
    assert not any(p.any() for p in module.parameters())
    module = module.double()
    with torch.no_grad():
        next(module.parameters()).copy_(torch.tensor([1.0, 2.0, -1.0]))
    rows = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.0, 3.0]], dtype=torch.float64)
    assert module(rows).tolist() == [[2.0], [-2.5]]


@pytest.mark.parametrize(
    ("name", "params", "inputs", "outputs", "says"),
    [
        ("cnn", {}, (123,), 10, r"shape \(123,\).*take model 'mlp'"),
        ("cnn", {}, (1, 3, 8), 10, "at least 4 x 4"),
        ("cnn", {"channels": []}, (1, 8, 8), 10, "at least one"),
        ("vector", {}, (64,), 10, "it has one output"),
        ("convnet", {}, (64,), 10, "takes images"),
        ("convnet", {"channels": []}, (1, 8, 8), 10, "at least one"),
        ("resnet", {"groups": 3}, (3, 32, 32), 10, "groups = 3: does not divide the 16 channels"),
        ("convnet", {"channels": [2]}, (1, 1, 1), 10, "has one value only"),
        ("resnet18", {}, (3, 31, 32), 10, "at least 32 x 32"),
        ("transformer", {}, (1, 8, 8), 10, r"shape \(1, 8, 8\).*takes texts.*'ag-news'"),
        ("transformer", {"heads": 5}, (8,), 4, "heads = 5: does not divide the width of 64"),
        ("distilbert", {}, (1, 8, 8), 10, "takes texts"),
        ("nerf", {}, (1, 8, 8), 10, r"shape \(1, 8, 8\) with 10 outputs.*takes rays.*'llff'"),
        ("nerf", {}, (6,), 1, "with 1 outputs"),
        ("distilbert", {}, (33,), 4, "data.length = 33: .* takes at most 32 tokens"),
    ],
)
def test_inputs_that_a_model_cannot_take(
    name: str, params: dict[str, Any], inputs: Shape, outputs: int, says: str
) -> None:
    made = model(name, **params)
    for method in (made.shapes, made.build):
        with pytest.raises(InputError, match=says):
            method(inputs, outputs)
