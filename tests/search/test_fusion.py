"""Reciprocal rank fusion, against its definition and the laws that follow from it."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.fusion import fuse

things = st.integers(0, 30)
rankings = st.lists(things, unique=True, max_size=20).map(
    lambda order: {one: rank for rank, one in enumerate(order, start=1)}
)
weights = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0])


@given(st.lists(st.tuples(weights, rankings), max_size=4), st.integers(1, 200))
def test_a_score_is_the_sum_of_weight_over_k_plus_rank(
    legs: list[tuple[float, dict[int, int]]], k: int
) -> None:
    found = fuse(legs, k)
    expected: dict[int, Fraction] = {}
    for weight, ranks in legs:
        for one, rank in ranks.items():
            if weight:
                expected[one] = expected.get(one, Fraction(0)) + Fraction(weight) / (k + rank)
    assert found.keys() == expected.keys()
    for one, score in found.items():
        assert score == pytest.approx(float(expected[one]), rel=1e-12)


@given(rankings, rankings, st.integers(1, 200))
def test_the_order_of_the_legs_does_not_matter(
    first: dict[int, int], second: dict[int, int], k: int
) -> None:
    one, other = fuse([(1, first), (2, second)], k), fuse([(2, second), (1, first)], k)
    assert one == pytest.approx(other)


@given(rankings, st.integers(1, 200))
def test_one_leg_alone_keeps_its_order(ranks: dict[int, int], k: int) -> None:
    scores = fuse([(3, ranks), (0, {99: 1})], k)
    assert sorted(scores, key=lambda one: -scores[one]) == sorted(ranks, key=lambda one: ranks[one])


@given(rankings, rankings, st.integers(1, 200))
def test_who_is_before_another_in_both_is_before_it(
    first: dict[int, int], second: dict[int, int], k: int
) -> None:
    scores = fuse([(1, first), (1, second)], k)
    both = first.keys() & second.keys()
    for one in both:
        for other in both:
            if first[one] < first[other] and second[one] < second[other]:
                assert scores[one] > scores[other]
