"""Partitions: exact known answers, and what holds for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from p2psim import registry, rng
from p2psim.base import Indices
from p2psim.errors import InputError

CIFAR = np.repeat(
    np.arange(10), 5000
)  # a rule sees only how often a class occurs, and in what order
DIGITS = rng.generator(3, "labels").integers(0, 10, 1437)


def split(name: str, labels: Indices, n: int, seed: int = 1, **params: Any) -> list[Indices]:
    made = registry.names("partition")[name](**params)
    parts: list[Indices] = made.split(labels, n, rng.generator(seed, "partition"))
    return parts


CASES: list[tuple[str, dict[str, Any]]] = [
    ("iid", {}),
    ("contiguous", {}),
    ("skew", {"s": 0.0}),
    ("skew", {"s": 0.37}),
    ("skew", {"s": 1.0}),
    ("skew", {"s": 0.8, "compat": True}),
    ("classes-per-peer", {"c": 2}),
    ("classes-per-peer", {"c": 3, "random": True}),
    ("classes-per-peer", {"c": 10}),
    ("dirichlet", {"alpha": 0.1}),
    ("dirichlet", {"alpha": 10.0}),
]


@pytest.mark.parametrize(("name", "params"), CASES)
@pytest.mark.parametrize("n", [5, 8, 16, 33])
def test_disjoint_full_and_repeatable(name: str, params: dict[str, Any], n: int) -> None:
    parts = split(name, DIGITS, n, **params)
    joined = np.concatenate(parts)
    assert len(parts) == n
    assert min(part.size for part in parts) > 0
    assert np.unique(joined).size == joined.size
    assert joined.min() >= 0
    assert joined.max() < DIGITS.size
    again = split(name, DIGITS, n, **params)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_every_partition_is_in_the_cases() -> None:
    assert {name for name, _ in CASES} | {"explicit"} == set(registry.names("partition"))


@pytest.mark.parametrize("name", ["iid", "skew"])
def test_another_seed_gives_another_split(name: str) -> None:
    params = {"s": 0.5} if name == "skew" else {}
    a, b = (split(name, DIGITS, 8, seed=seed, **params)[0] for seed in (1, 2))
    assert not np.array_equal(a, b)


def test_iid_drops_the_remainder() -> None:
    assert [part.size for part in split("iid", DIGITS, 8)] == [179] * 8


@pytest.mark.parametrize("n", [1, 4, 7, 1437])
def test_contiguous_parts_are_all_samples_in_order(n: int) -> None:
    parts = split("contiguous", DIGITS, n)
    assert np.concatenate(parts).tolist() == list(range(1437))
    sizes = [part.size for part in parts]
    assert sizes == [1437 // n + 1] * (1437 % n) + [1437 // n] * (n - 1437 % n)
    with pytest.raises(InputError, match="gets none of the 1437 samples"):
        split("contiguous", DIGITS, 1438)


@pytest.mark.parametrize(
    ("s", "ordered", "rest", "compat_rest"),
    [(0.8, 5000, 1250, 1249), (0.9, 5625, 625, 624), (0.4, 2500, 3750, 3750)],
)
def test_skew_sizes_on_cifar(s: float, ordered: int, rest: int, compat_rest: int) -> None:
    for compat, second in ((False, rest), (True, compat_rest)):
        for part in split("skew", CIFAR, 8, s=s, compat=compat):
            assert part.size == ordered + second
            assert np.unique(CIFAR[part[:ordered]]).tolist() in [[c, c + 1] for c in range(9)]
            assert np.all(np.diff(part[:ordered]) > 0)
            assert np.unique(CIFAR[part[ordered:]]).size == 10


def test_skew_known_runs_on_cifar() -> None:
    parts = split("skew", CIFAR, 8, s=0.8)
    # 4000 of each class are sorted: peer 0 has all of class 0 and 1000 of class 1.
    assert np.bincount(CIFAR[parts[0][:5000]], minlength=10)[:3].tolist() == [4000, 1000, 0]
    assert np.bincount(CIFAR[parts[3][:5000]], minlength=10)[3:5].tolist() == [1000, 4000]
    assert parts[0][:5000].tolist() == [*range(4000), *range(5000, 6000)]
    sixteen = [np.unique(CIFAR[part[:2500]]).size for part in split("skew", CIFAR, 16, s=0.8)]
    assert set(sixteen) == {1, 2}


def test_skew_ends() -> None:
    assert all(np.unique(CIFAR[p]).size == 10 for p in split("skew", CIFAR, 8, s=0.0))
    ends = split("skew", CIFAR, 10, s=1.0)
    assert [np.unique(CIFAR[part]).tolist() for part in ends] == [[c] for c in range(10)]
    assert [part.size for part in ends] == [5000] * 10


def test_skew_takes_the_decimal_that_was_written() -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point.
    labels = np.zeros(100, np.int64)
    assert np.all(split("skew", labels, 1, s=0.29)[0][:29] == np.arange(29))
    part = split("skew", labels, 1, s=0.29, compat=True)[0]
    assert part.size == 28 + 71


def test_classes_per_peer_on_ten_peers() -> None:
    parts = split("classes-per-peer", CIFAR, 10, c=2)
    assert [np.unique(CIFAR[p]).tolist() for p in parts[:9]] == [[i, i + 1] for i in range(9)]
    assert np.unique(CIFAR[parts[9]]).tolist() == [0, 9]
    assert [p.size for p in parts] == [5000] * 10
    assert parts[0].tolist() == [*range(2500), *range(5000, 7500)]
    balanced = split("classes-per-peer", CIFAR, 10, c=10)
    assert all(np.bincount(CIFAR[p]).tolist() == [500] * 10 for p in balanced)


def test_classes_per_peer_at_random_covers_all() -> None:
    for seed in range(5):
        parts = split("classes-per-peer", CIFAR, 6, seed=seed, c=2, random=True)
        assert all(np.unique(CIFAR[p]).size == 2 for p in parts)
        assert np.unique(CIFAR[np.concatenate(parts)]).size == 10


def test_dirichlet_rule_on_more_than_one_group() -> None:
    parts = split("dirichlet", CIFAR, 25, alpha=0.1)
    assert sum(p.size for p in parts) == 50000
    assert sum(p.size for p in parts[:10]) == sum(p.size for p in parts[10:20]) == 20000
    assert min(p.size for p in parts) >= 1000
    few = np.mean([np.bincount(CIFAR[p], minlength=10).max() / p.size for p in parts])
    mild = split("dirichlet", CIFAR, 25, alpha=10.0)
    even = np.mean([np.bincount(CIFAR[p], minlength=10).max() / p.size for p in mild])
    assert few > 0.5 > 0.3 > even


def test_explicit_of_the_p2pl_paper() -> None:
    labels = np.tile(np.arange(10), 200)
    iid = split("explicit", labels, 2, classes=[[0, 1, 7, 8]] * 2, samples=[100, 100])
    for part in iid:
        assert np.bincount(labels[part], minlength=10)[[0, 1, 7, 8]].tolist() == [25] * 4
    assert not set(iid[0]) & set(iid[1])
    two = split("explicit", labels, 2, classes=[[0, 1], [7, 8]], samples=[100, 100])
    assert np.bincount(labels[two[1]], minlength=10)[[7, 8]].tolist() == [50, 50]
    halves = split("explicit", labels, 2, classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    assert [part.size for part in halves] == [1000, 1000]


@pytest.mark.parametrize(
    ("name", "n", "params", "says"),
    [
        ("iid", 1438, {}, "fewer peers"),
        ("skew", 8, {"s": 1.5}, "from 0 to 1"),
        ("skew", 8, {"s": float("nan")}, "from 0 to 1"),
        ("skew", 1438, {"s": 0.5}, "fewer peers"),
        ("classes-per-peer", 8, {"c": 11}, "give 1 to 10"),
        ("classes-per-peer", 4, {"c": 2}, "give c of at least 3"),
        ("classes-per-peer", 1438, {"c": 1}, "fewer peers"),
        ("dirichlet", 8, {"alpha": 0.0}, "give a number > 0"),
        ("dirichlet", 8, {"alpha": float("inf")}, "give a number > 0"),
        ("dirichlet", 1438, {"alpha": 0.5}, "fewer peers"),
        ("explicit", 2, {"classes": [[0]]}, "1 entries for 2 peers"),
        ("explicit", 2, {"classes": [[0], [1]], "samples": [3]}, "1 entries for 2 peers"),
        ("explicit", 2, {"classes": [[0], [10]]}, r"\[10\] of peer 1"),
        ("explicit", 2, {"classes": [[0], []]}, r"\[\] of peer 1"),
        ("explicit", 2, {"classes": [[0], [1, 1]]}, r"\[1, 1\] of peer 1"),
        ("explicit", 2, {"classes": [[0], [0]], "samples": [900, 1]}, "need 901"),
    ],
)
def test_wrong_values(name: str, n: int, params: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        split(name, DIGITS, n, **params)


def test_samples_of_one_class_need_another_partition() -> None:
    with pytest.raises(InputError, match="all samples have the same class; give another partition"):
        split("classes-per-peer", np.zeros(30, int), 3, c=2)


def test_random_classes_give_up_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2psim.data.partitions.TRIES", 50)
    with pytest.raises(InputError, match="random = false"):
        split("classes-per-peer", np.repeat(np.arange(30), 9), 30, c=1, random=True)


def test_dirichlet_gives_up_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2psim.data.partitions.TRIES", 50)
    with pytest.raises(InputError, match=r"alpha = 0.001 left a peer"):
        split("dirichlet", np.repeat([0, 1], 500), 10, alpha=0.001)
