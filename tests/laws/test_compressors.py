"""What every compressor must do; a new plug-in in the folder is tested here by itself."""

from __future__ import annotations

import contextlib
import itertools
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psim.base import Shape, Vector
from p2psim.registry import names
from p2psim.rng import RandomStream
from tests.support.thorough import cover, thorough

MLP: list[Shape] = [(200, 784), (200,), (200, 200), (200,), (10, 200), (10,)]
CNN: list[Shape] = [(8, 1, 3, 3), (8,), (16, 8, 3, 3), (16,), (), (10, 784), (10,)]
SMALL: list[Shape] = [(3, 5), (), (17,), (1, 1)]

# Parameters worth testing; a plug-in that is not here is tested with its defaults.
CASES: dict[str, list[dict[str, Any]]] = {
    "top-k": [{"keep": 0.01}, {"keep": 0.6}, {"k": 3}, {"keep": 0.1, "per": "vector"}],
    "random-k": [{"keep": 0.01}, {"keep": 0.6}, {"k": 3, "unbiased": True}],
    "qsgd": [{"bits": 1}, {"bits": 4}, {"bits": 8, "biased": True}, {"per": "vector"}],
}
ALL = [(name, case) for name in names("compressor") for case in CASES.get(name, [{}])]
CHAINED = [("top-k", {"keep": 0.1, "values": inner}) for inner in ("affine-8", "sign", "qsgd")]


def label(value: object) -> str:
    """The same in every process, as parallel runs of the tests need: no address of a function."""
    return str(getattr(value, "__name__", value))[:40]


every = pytest.mark.parametrize(("name", "case"), ALL + CHAINED, ids=label)
floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def make(name: str, case: dict[str, Any], shapes: list[Shape], rank: int = 0) -> Any:
    codec = names("compressor")[name](**case)
    codec.bind(shapes, RandomStream(7, "law", rank))
    return codec


def size(shapes: list[Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def vector(seed: int, d: int, dtype: Any, kind: str = "normal") -> Vector:
    rng = np.random.default_rng(seed)
    x: Vector = rng.standard_normal(d)
    if kind == "ties":
        x = np.rint(x)
    if kind == "sparse":
        x *= rng.random(d) < 0.02
    if kind == "wild":
        x *= 10.0 ** rng.integers(-30, 12, d)
    return x.astype(dtype)


def sent(codec: Any, x: Vector) -> Any:
    """The payload of x, with proof that nothing was written behind it."""
    bound = codec.max_bytes(x.size, x.itemsize)
    out = np.full(bound + 64, 171, np.uint8)
    used = codec.encode(x, out)
    assert 0 <= used <= bound
    assert (out[bound:] == 171).all()
    return out[:used]


def received(codec: Any, payload: Any, x: Vector) -> Vector:
    out: Vector = np.full_like(x, np.nan)
    codec.decode(payload, out)
    return out


def through(codec: Any, x: Vector) -> Vector:
    return received(codec, sent(codec, x), x)


@every
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    shapes=st.lists(st.sampled_from([(), (1,), (0,), (2, 3), (8,), (33,), (5, 0), (64, 9)])),
    dtype=st.sampled_from([np.float32, np.float64]),
    kind=st.sampled_from(["normal", "ties", "sparse", "wild"]),
)
def test_receivers_agree(
    name: str, case: dict[str, Any], seed: int, shapes: list[Shape], dtype: Any, kind: str
) -> None:
    x = vector(seed, size(shapes), dtype, kind)
    before, sender = x.copy(), make(name, case, shapes)
    payload = sent(sender, x)
    # The second receiver has other randomness and a past; neither may matter.
    other = make(name, case, shapes, rank=5)
    through(other, vector(seed + 1, x.size, dtype))
    first, second = received(sender, payload, x), received(other, payload, x)
    assert x.tobytes() == before.tobytes()
    assert first.tobytes() == second.tobytes()
    assert np.isfinite(first).all()


@every
@floats
def test_bytes_follow_from_vector_and_position(name: str, case: dict[str, Any], dtype: Any) -> None:
    x, fresh, used = vector(1, size(CNN), dtype), make(name, case, CNN), make(name, case, CNN)
    sent(used, vector(2, x.size, dtype))
    fresh.stream.position = used.stream.position = 5
    assert sent(fresh, x).tobytes() == sent(used, x).tobytes()
    assert fresh.stream.position == used.stream.position


@every
@floats
def test_zero_stays_zero(name: str, case: dict[str, Any], dtype: Any) -> None:
    several: list[list[Shape]] = [SMALL, CNN, [(1,)], [(0,)], [()]]
    for shapes in several:
        assert not through(make(name, case, shapes), np.zeros(size(shapes), dtype)).any()


@every
@floats
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(name: str, case: dict[str, Any], dtype: Any, bad: float) -> None:
    for at in (0, size(CNN) // 2, size(CNN) - 1):
        x = vector(3, size(CNN), dtype)
        x[at] = bad
        with pytest.raises(FloatingPointError, match="NaN or infinity"):
            sent(make(name, case, CNN), x)


@every
@floats
def test_extremes(name: str, case: dict[str, Any], dtype: Any) -> None:
    """Whatever is finite comes out finite, or is refused, without a warning."""
    info = np.finfo(dtype)
    signs = np.sign(vector(4, size(CNN), dtype))
    for small in (info.tiny, info.smallest_subnormal):
        assert np.isfinite(through(make(name, case, CNN), signs * small)).all()
    for large in (info.max, info.max / 3):
        x, codec = signs * dtype(large), make(name, case, CNN)
        with np.errstate(all="raise"), contextlib.suppress(FloatingPointError):
            assert np.isfinite(through(codec, x)).all()


@every
@floats
def test_any_byte_offset(name: str, case: dict[str, Any], dtype: Any) -> None:
    x, codec = vector(5, size(CNN), dtype), make(name, case, CNN)
    expected = sent(codec, x)
    for offset in (1, 2, 3, 7):
        room = np.zeros(codec.max_bytes(x.size, x.itemsize) + offset, np.uint8)
        codec.stream.position = 0
        used = codec.encode(x, room[offset:])
        assert room[offset : offset + used].tobytes() == expected.tobytes()
        got = received(codec, room[offset : offset + used], x)
        assert got.tobytes() == received(codec, expected, x).tobytes()


@every
def test_misuse_is_refused(name: str, case: dict[str, Any]) -> None:
    x, codec = vector(6, size(SMALL), np.float32), make(name, case, SMALL)
    unbound, payload = names("compressor")[name](**case), sent(codec, x)
    with pytest.raises(RuntimeError, match="before bind"):
        unbound.encode(x, np.empty(1000, np.uint8))
    with pytest.raises(RuntimeError, match="before bind"):
        unbound.decode(payload, x)
    with pytest.raises(ValueError, match="bound to"):
        codec.encode(x[:-1], np.empty(1000, np.uint8))
    with pytest.raises(ValueError, match="bound to"):
        codec.decode(payload, x[:-1])
    with pytest.raises(ValueError, match="bytes"):
        codec.encode(x, np.empty(codec.max_bytes(x.size) - 1, np.uint8))
    for wrong in (payload[:-1], payload[:0], np.append(payload, np.uint8(0))):
        with pytest.raises(ValueError, match="damaged"):
            codec.decode(wrong, x)
    with pytest.raises(TypeError, match="contiguous"):
        codec.encode(np.zeros(2 * x.size, np.float32)[::2], np.empty(1000, np.uint8))


@every
def test_a_round_allocates_nothing_large(name: str, case: dict[str, Any]) -> None:
    d = 3_000_000
    x, codec = vector(7, d, np.float32), make(name, case, [(d - 7,), (7,)])
    out, y = np.empty(codec.max_bytes(d), np.uint8), np.empty_like(x)
    codec.decode(out[: codec.encode(x, out)], y)
    tracemalloc.start()
    try:
        codec.decode(out[: codec.encode(x, out)], y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * d / 10


def kept(m: int, keep: float) -> int:
    return min(m, max(1, math.floor(m * keep + 1e-9)))


# Payload bytes of one tensor of m entries, f bytes each: section 3 of the algorithm reference.
FORMULAS: list[tuple[str, dict[str, Any], Callable[[int, int], int]]] = [
    ("identity", {}, lambda m, f: f * m),
    ("top-k", {"keep": 0.1}, lambda m, f: (f + 4) * kept(m, 0.1)),
    ("top-k", {"k": 20}, lambda m, f: (f + 4) * min(m, 20)),
    ("top-k", {"keep": 0.1, "values": "affine-8"}, lambda m, f: 5 * kept(m, 0.1) + 2 * f),
    ("random-k", {"keep": 0.1}, lambda m, f: f * kept(m, 0.1) + 8),
    ("sign", {}, lambda m, f: math.ceil(m / 8) + f),
    ("affine-8", {}, lambda m, f: m + 2 * f),
]
for b in (1, 2, 4, 7, 8):
    FORMULAS.append(("qsgd", {"bits": b}, lambda m, f, b=b: math.ceil(m * (b + 1) / 8) + f))  # type: ignore[misc]


@floats
@pytest.mark.parametrize("shapes", [MLP, CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize(("name", "case", "formula"), FORMULAS, ids=label)
def test_bytes(
    name: str, case: dict[str, Any], formula: Callable[[int, int], int], shapes: Any, dtype: Any
) -> None:
    x, codec = vector(8, size(shapes), dtype), make(name, case, shapes)
    expected = sum(formula(math.prod(shape), x.itemsize) for shape in shapes)
    assert sent(codec, x).size == codec.max_bytes(x.size, x.itemsize) == expected


def parts(x: Vector, shapes: list[Shape]) -> list[Vector]:
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return [x[end - math.prod(shape) : end] for end, shape in zip(ends, shapes, strict=True)]


def naive_affine(x: Vector) -> Vector:
    one = x.dtype.type
    sigma = max((x.max() - x.min()) / one(255), one(1e-8))
    q: Vector = np.clip(np.rint((x - x.min()) / sigma), 0, 255)
    q = q * sigma + x.min()
    return q


def naive_top(x: Vector, k: int) -> Vector:
    chosen = np.argsort(-np.abs(x), kind="stable")[:k]
    y = np.zeros_like(x)
    y[chosen] = x[chosen]
    return y


NAIVE: list[tuple[str, dict[str, Any], Callable[[Vector], Vector]]] = [
    ("identity", {}, lambda x: x),
    ("affine-8", {}, naive_affine),
    ("sign", {}, lambda x: np.where(x >= 0, 1, -1) * np.abs(x, dtype=np.float64).mean()),
    ("top-k", {"keep": 0.1}, lambda x: naive_top(x, kept(x.size, 0.1))),
    ("top-k", {"k": 9}, lambda x: naive_top(x, 9)),
]


@floats
@pytest.mark.parametrize("kind", ["normal", "ties", "sparse"])
@pytest.mark.parametrize("shapes", [SMALL, MLP, CNN], ids=["small", "mlp", "cnn"])
@pytest.mark.parametrize(("name", "case", "naive"), NAIVE, ids=label)
def test_definition(
    name: str,
    case: dict[str, Any],
    naive: Callable[[Vector], Vector],
    shapes: Any,
    kind: str,
    dtype: Any,
) -> None:
    x = vector(9, size(shapes), dtype, kind)
    expected = np.concatenate([naive(part) for part in parts(x, shapes)])
    got = through(make(name, case, shapes), x)
    if name == "sign":  # a sum, so the order of adding shows
        np.testing.assert_allclose(got, expected, rtol=1e-6 if dtype == np.float32 else 1e-13)
    else:
        np.testing.assert_array_equal(got, expected.astype(dtype))


PATTERNS: dict[str, Callable[[int], Any]] = {
    "normal": lambda m: np.random.default_rng(1).standard_normal(m),
    "equal": lambda m: np.ones(m),
    "signs": lambda m: np.where(np.arange(m) % 3, 1.0, -1.0),
    "few": lambda m: np.arange(m) % 997 == 5,
    "in step with the sample": lambda m: (np.arange(m) % 61 == 0) * (1.0 + np.arange(m) % 7),
    "out of step": lambda m: (np.arange(m) % 61 == 1) * (1.0 + np.arange(m) % 7),
    "rising": lambda m: np.arange(m),
    "falling": lambda m: -np.arange(m)[::-1],
    "levels": lambda m: np.random.default_rng(2).integers(-3, 4, m),
    "heavy": lambda m: np.random.default_rng(3).standard_cauchy(m),
}


@floats
@pytest.mark.parametrize("keep", [1e-5, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_top_k_is_exact(pattern: str, keep: float, dtype: Any) -> None:
    m = 150_001
    x = np.asarray(PATTERNS[pattern](m), dtype)
    got = through(make("top-k", {"keep": keep}, [(m,)]), x)
    np.testing.assert_array_equal(got, naive_top(x, kept(m, keep)))


def error(y: Vector, x: Vector) -> float:
    return float(np.sum((y - x) ** 2) / np.sum(x**2))


def test_contractions() -> None:
    """I19: delta of top-k as a bound, of sign exactly, of random-k in the mean."""
    m, k = 1000, 130
    x = vector(10, m, np.float64)
    assert error(through(make("top-k", {"k": k}, [(m,)]), x), x) <= 1 - k / m
    delta = np.abs(x).sum() ** 2 / (m * np.sum(x**2))
    assert error(through(make("sign", {}, [(m,)]), x), x) == pytest.approx(1 - delta, abs=1e-12)
    random = make("random-k", {"k": k}, [(m,)])
    mean = np.mean([error(through(random, x), x) for _ in range(400)])
    assert mean == pytest.approx(1 - k / m, abs=0.005)  # eight standard deviations


@pytest.mark.parametrize(("biased", "bits"), cover(itertools.product([False, True], [1, 2, 4, 8])))
def test_qsgd_is_unbiased_and_bounded(bits: int, biased: bool) -> None:
    m, draws, s = 60, 4000, 2**bits - 1
    x, tau = vector(11, m, np.float64), 1 + min(m / s**2, math.sqrt(m) / s)
    codec = make("qsgd", {"bits": bits, "biased": biased}, [(m,)])
    q = np.array([through(codec, x) for _ in range(draws)])
    scaled, norm = q * (tau if biased else 1), np.sqrt(np.sum(x**2))
    levels = np.abs(scaled) * s / norm
    assert np.abs(levels - np.rint(levels)).max() < 1e-9
    assert np.abs(levels - s * np.abs(x) / norm).max() < 1  # one of the two nearest levels
    assert np.abs(scaled.mean(0) - x).max() < 6 * norm / (2 * s * math.sqrt(draws))
    energy = np.sum(q**2, axis=1).mean() / np.sum(x**2)
    assert energy <= (1 / tau if biased else tau) * 1.02
    if biased:
        assert np.mean([error(y, x) for y in q]) <= (1 - 1 / tau) * 1.02 + 1e-9


@pytest.mark.parametrize("k", [1, thorough(7), 10, thorough(15), 19])
def test_random_k_draws_uniformly(k: int) -> None:
    m, draws = 20, 3000
    x, codec = np.arange(1.0, m + 1), make("random-k", {"k": k}, [(m,)])
    y = np.array([through(codec, x) for _ in range(draws)])
    assert ((y == 0) | (y == x)).all()
    assert ((y != 0).sum(1) == k).all()
    p, pair = k / m, k * (k - 1) / (m * (m - 1))
    hits = (y != 0).astype(float)
    assert np.abs(hits.mean(0) - p).max() < 5 * math.sqrt(p * (1 - p) / draws)
    both = hits.T @ hits / draws
    off = both[~np.eye(m, dtype=bool)]
    assert np.abs(off - pair).max() < 5.5 * math.sqrt(max(pair * (1 - pair), 1e-9) / draws) + 1e-12


def test_random_k_unbiased() -> None:
    x, codec = vector(12, 30, np.float64), make("random-k", {"k": 6, "unbiased": True}, [(30,)])
    mean = np.mean([through(codec, x) for _ in range(4000)], axis=0)
    assert np.abs(mean - x).max() < 6 * np.abs(x).max() * math.sqrt(4 / 4000)


@floats
@pytest.mark.parametrize("offset", [0.0, 3.0, -1000.0])
def test_affine(offset: float, dtype: Any) -> None:
    """I18: error at most sigma / 2, idempotent, constants exact."""
    x = (vector(13, 5000, np.float64) + offset).astype(dtype)
    codec = make("affine-8", {}, [(5000,)])
    sigma, rounding = (x.max() - x.min()) / 255, 2 * float(np.spacing(np.abs(x).max()))
    once = through(codec, x)
    assert np.abs(once - x).max() <= sigma / 2 + rounding
    first, second = sent(codec, once), sent(codec, through(codec, once))
    assert (first[2 * x.itemsize :] == second[2 * x.itemsize :]).all()
    np.testing.assert_allclose(through(codec, once), once, rtol=0, atol=rounding)
    constant = np.full_like(x, 0.1 + offset)
    assert through(codec, constant).tobytes() == constant.tobytes()
