"""I22: energy, memory and traffic of the published networks, against the numbers of the paper's
formulas as worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from p2psim import registry
from p2psim.compressors.affine_8 import Affine8
from p2psim.compressors.identity import Identity
from p2psim.compressors.top_k import TopK
from p2psim.models import cost_model
from p2psim.rng import RandomStream

SHAPE, B = (3, 32, 32), 32
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet-20": ("resnet", {"depth": 20}),
    "resnet-54": ("resnet", {"depth": 54}),
    "vgg-11": ("vgg11", {"head": "hidden"}),
}
# parameters, with two a norm channel, macs, norm entries, skip entries
SIZES = {
    "resnet-20": (273_258, 272_282, 40_813_184, 188_416, 86_016),
    "resnet-54": (760_458, 758_362, 111_592_064, 475_136, 229_376),
    "vgg-11": (9_496_522, 9_493_770, 153_031_680, 151_552, 0),
}
# mJ of training and inference, each in fp32 and int8, to as many digits as are known
ENERGY = {
    ("resnet-20", "range-bn"): ("18.211", "0.9163", "6.074", "0.3037"),
    ("resnet-54", "range-bn"): ("49.753", "2.5011", "16.593", "0.8299"),
    ("vgg-11", "range-bn"): ("67.726", "3.3959", "22.575", "1.1368"),
    ("resnet-20", "range-evonorm"): ("18.284", ".9205", "6.113", ".3060"),
    ("resnet-54", "range-evonorm"): ("49.937", "2.5119", "16.692", ".8355"),
    ("vgg-11", "range-evonorm"): ("67.784", "3.3994", "22.607", "1.1386"),
}
RATIO = {"resnet-20": 19.87, "resnet-54": 19.89, "vgg-11": 19.94}
INFERENCE = {"resnet-20": "1.04", "resnet-54": "2.89", "vgg-11": "36.22"}  # MiB
TRAFFIC = {  # GB, dense and keeping a hundredth; iterations
    "resnet-20": ("42.85", "0.651", 39_200),
    "resnet-54": ("119.2", "1.808", 39_200),
    "vgg-11": ("744.5", None, 19_600),
}


def rounded(value: float, like: str) -> str:
    """To as many places as `like` has."""
    return f"{value:.{len(like.partition('.')[2])}f}"


def net(name: str, norm: str) -> tuple[Any, int]:
    """Cost and number of parameters."""
    model, given = NETS[name]
    made: Any = registry.names("model")[model](norm=norm, **given)
    return made.cost(SHAPE, 10), sum(math.prod(shape) for shape in made.shapes(SHAPE, 10))


@pytest.mark.parametrize("name", NETS)
def test_sizes(name: str) -> None:
    cost, d = net(name, "range-evonorm")
    parameters, counted, macs, entries, skips = SIZES[name]
    assert (d, cost_model.counted_parameters(cost, d)) == (parameters, counted)
    assert (cost.macs, cost.evonorm_elements, cost.added) == (macs, entries, skips)
    plain, d = net(name, "range-bn")
    assert cost_model.counted_parameters(plain, d) == counted
    assert plain.norm_elements == entries


@pytest.mark.parametrize(("name", "norm"), ENERGY)
def test_energy(name: str, norm: str) -> None:
    cost, _ = net(name, norm)
    found = [
        cost_model.operations(cost, B, precision, training).energy(precision)
        for training in (True, False)
        for precision in ("fp32", "int8")
    ]
    wanted = ENERGY[name, norm]
    for value, text in zip(found, wanted, strict=True):
        assert rounded(value, text) == rounded(float(text), text)
    assert 19.5 < found[0] / found[1] < 20.5
    if norm == "range-bn":
        assert abs(found[0] / found[1] - RATIO[name]) < 0.01


@pytest.mark.parametrize("name", NETS)
def test_memory(name: str) -> None:
    costs = {norm: net(name, norm) for norm in ("range-bn", "range-evonorm")}
    _, counted, _, entries, skips = SIZES[name]
    for norm, (cost, d) in costs.items():
        assert rounded(cost_model.inference_memory(cost, d) / 2**20, "1.00") == INFERENCE[name]
        kept = 4 * entries + 2 * skips + (2 * entries if norm == "range-bn" else 0)
        assert cost_model.memory(cost, d, B, "fp32") == 4 * (5 * counted + B * kept)
        assert cost_model.memory(cost, d, B, "int8") == 4 * 5 * counted + B * kept
    more = [cost_model.memory(*costs[norm], B, "fp32") for norm in costs]
    mib = {"resnet-20": "46.0", "resnet-54": "116.0", "vgg-11": "37.0"}
    assert rounded((more[0] - more[1]) / 2**20, "1.0") == mib[name]


@pytest.mark.parametrize("name", NETS)
def test_traffic(name: str) -> None:
    model, given = NETS[name]
    made: Any = registry.names("model")[model](norm="evonorm", **given)
    shapes = made.shapes(SHAPE, 10)
    sizes = [math.prod(shape) for shape in shapes]
    dense, sparse, iterations = TRAFFIC[name]

    def published(compressor: Any) -> float:
        compressor.bind(shapes, RandomStream(0, "test", 0))
        nbytes: float = compressor.published()[0]
        return nbytes

    assert rounded(iterations * published(Identity()) / 1e9, dense) == dense
    assert published(Affine8()) == published(Identity()) / 4
    kept = sum(max(1, m // 100) for m in sizes)
    if name == "resnet-20":
        assert kept == 2767
    if sparse:
        assert rounded(iterations * published(TopK(keep=0.01)) / 1e9, sparse) == sparse
    quarter = TopK(keep=0.01, values="affine-8")  # type: ignore[arg-type]
    assert published(quarter) == published(TopK(keep=0.01)) / 4
