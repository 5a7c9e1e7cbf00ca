"""Single facts about the compressors that the laws do not cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from p2psim.compressors.affine_8 import Affine8
from p2psim.compressors.qsgd import QSGD
from p2psim.compressors.random_k import RandomK
from p2psim.compressors.sign import Sign
from p2psim.compressors.top_k import TopK
from p2psim.rng import RandomStream
from p2psim.vectors import CHUNK, Scratch, chunks, kept_entries


def payload(codec: Any, x: Any) -> Any:
    codec.bind([x.shape], RandomStream(1, "unit", 0))
    out = np.empty(codec.max_bytes(x.size, x.itemsize), np.uint8)
    return out[: codec.encode(x, out)]


def through(codec: Any, x: Any) -> Any:
    sent, y = payload(codec, x), np.empty_like(x)
    codec.decode(sent, y)
    return y


@pytest.mark.parametrize("codec", [TopK, RandomK])
def test_exactly_one_of_keep_and_k(codec: Any) -> None:
    with pytest.raises(ValueError, match="neither"):
        codec()
    with pytest.raises(ValueError, match="both"):
        codec(keep=0.1, k=3)


def test_kept_entries_survives_fragile_products() -> None:
    assert kept_entries(100, 1 - 0.9, None) == 10
    assert kept_entries(500, 1 - 0.9, None) == 50
    assert kept_entries(5, 0.01, None) == 1
    assert kept_entries(5, None, 9) == 5
    assert kept_entries(0, 0.5, None) == 0


def test_top_k_layout_ties_and_order() -> None:
    x = np.array([1, -3, 2, 3, -2, 0], np.float32)
    sent = payload(TopK(k=3), x)
    assert sent[:12].copy().view(np.float32).tolist() == [-3, 2, 3]  # 2 before -2: lower index
    assert sent[12:].copy().view(np.int32).tolist() == [1, 2, 3]


@pytest.mark.parametrize("index", [[1, 2, 6], [-1, 2, 3], [2, 2, 3], [3, 2, 1], [2**31 - 1] * 3])
def test_top_k_refuses_damaged_indices(index: list[int]) -> None:
    x, codec = np.arange(6, dtype=np.float32), TopK(k=3)
    sent = payload(codec, x)
    sent[12:] = np.array(index, np.int32).view(np.uint8)
    with pytest.raises(ValueError, match="ascending"):
        codec.decode(sent, x)


def test_top_k_with_eight_bit_values() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    codec = TopK(k=50, values=Affine8())
    assert payload(codec, x).size == 5 * 50 + 8
    plain, coarse = through(TopK(k=50), x), through(codec, x)
    chosen = plain != 0
    assert not coarse[~chosen].any()
    assert (coarse[chosen] == through(Affine8(), np.ascontiguousarray(plain[chosen]))).all()


def test_per_vector_ignores_tensor_borders() -> None:
    x = np.array([1, 2, 3, 10, 20, 30], np.float32)
    y = np.empty_like(x)
    for per, expected in (("tensor", [0, 0, 3, 0, 0, 30]), ("vector", [0, 0, 0, 0, 20, 30])):
        codec = TopK(keep=1 / 3, per=per)  # type: ignore[arg-type]
        codec.bind([(3,), (3,)], RandomStream(1, "unit", 0))
        out = np.empty(codec.max_bytes(6), np.uint8)
        codec.decode(out[: codec.encode(x, out)], y)
        assert y.tolist() == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_affine_range_beyond_the_float_type(dtype: Any) -> None:
    top = np.finfo(dtype).max
    x = np.array([-top, -top / 2, 0, top / 3, top], dtype)
    y = through(Affine8(), x)
    assert np.abs(y / 2 - x / 2).max() <= top / 255 / 2 * 1.001
    assert y[0] == -top


def test_affine_smallest_step() -> None:
    x = np.array([0, 1e-9, 4e-9, 6e-9], np.float32)
    assert through(Affine8(), x) == pytest.approx([0, 0, 0, 1e-8])


@pytest.mark.parametrize("codec", [Affine8(), Sign(), QSGD()])
def test_damaged_headers_are_refused(codec: Any) -> None:
    x = np.ones(5, np.float32)
    sent = payload(codec, x)
    sent[:4] = np.array([np.nan], np.float32).view(np.uint8)
    with pytest.raises(ValueError, match="damaged"):
        codec.decode(sent, x)


def test_sign_of_zero_is_plus_and_bits_run_from_the_top() -> None:
    x = np.array([0, -1, 2, -0.0, -3, 0, 0, 0, -2], np.float32)
    sent = payload(Sign(), x)
    assert sent[:4].copy().view(np.float32)[0] == np.float32(8 / 9)
    assert sent[4:].tolist() == [0b10110111, 0]
    assert np.sign(through(Sign(), x)).tolist() == [1, -1, 1, 1, -1, 1, 1, 1, -1]


def test_sign_of_huge_entries() -> None:
    x = np.full(3 * CHUNK + 5, np.finfo(np.float32).max / 2, np.float32)
    np.testing.assert_allclose(through(Sign(), x), x, rtol=1e-6)


def test_qsgd_one_entry_is_exact_and_tiny_entries_are_not_lost() -> None:
    for value in (3.0, -1e-30, 1e-42):
        x = np.array([value], np.float32)
        assert through(QSGD(bits=3), x) == pytest.approx(x, rel=1e-6)


def test_qsgd_norm_that_is_no_float() -> None:
    with pytest.raises(FloatingPointError, match="norm"):
        payload(QSGD(), np.full(100, 3e38, np.float32))


def test_random_k_consumes_a_seed_per_tensor() -> None:
    codec, stream = RandomK(keep=0.5), RandomStream(1, "unit", 0)
    codec.bind([(4,), (0,), (6,)], stream)
    out = np.empty(codec.max_bytes(10), np.uint8)
    assert codec.encode(np.ones(10, np.float32), out) == 2 * 4 + 8 + 8 + 3 * 4 + 8
    assert stream.position == 3
    assert int(out[:8].view(np.uint64)[0]) == RandomStream(1, "unit", 0).seed()


def test_spans_cover_everything_once() -> None:
    for m in (0, 1, 9, 10, 11, 25):
        for first in (0, 3, 10):
            covered = [i for chunk in chunks(m, 10, first) for i in range(m)[chunk]]
            assert covered == list(range(m))


def test_scratch_is_kept_and_starts_a_cache_line() -> None:
    scratch = Scratch()
    first = scratch("a", 10, np.float32)
    assert first.ctypes.data % 64 == 0
    assert np.shares_memory(first, scratch("a", 5, np.float32))
    assert not np.shares_memory(first, scratch("a", 10, np.float64))
    assert not np.shares_memory(first, scratch("b", 10, np.float32))
