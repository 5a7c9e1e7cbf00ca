"""Check the choice of cases for `make test`."""

from __future__ import annotations

import itertools

from tests.support.thorough import cover, covering

CASES = list(itertools.product("abc", range(4), [True, False]))


def test_every_part_is_covered_by_few_cases() -> None:
    chosen = [CASES[index] for index in covering(CASES, [lambda a, b, c: a, lambda a, b, c: b])]
    assert {a for a, _, _ in chosen} == set("abc")
    assert {b for _, b, _ in chosen} == set(range(4))
    assert len(chosen) == 4


def test_pairs_are_covered_where_the_key_is_a_pair() -> None:
    chosen = [CASES[index] for index in covering(CASES, [lambda a, b, c: (a, b)])]
    assert sorted({(a, b) for a, b, _ in chosen}) == [(a, b) for a in "abc" for b in range(4)]


def test_the_other_cases_are_marked_and_none_is_lost() -> None:
    parameters = cover(CASES)
    assert [parameter.values for parameter in parameters] == CASES
    plain = [parameter.values for parameter in parameters if not parameter.marks]
    assert {part for case in plain for part in case} == {*"abc", *range(4), True, False}
    assert len(plain) == 4
