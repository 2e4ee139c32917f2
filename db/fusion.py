"""Reciprocal rank fusion: one ranking of several, by ranks alone.

Cormack, Clarke, Buettcher: Reciprocal rank fusion outperforms Condorcet and individual rank
learning methods (SIGIR 2009). A thing's score is the sum of weight / (k + rank) over the rankings
that it is in.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

K = 60
"""The authors' constant: the smaller, the more the first places count."""

T = TypeVar("T", bound=Hashable)


def fuse(rankings: Iterable[tuple[float, Mapping[T, int]]], k: float = K) -> dict[T, float]:
    """The score of everything that is in a ranking of some weight; ranks begin at 1."""
    scores: dict[T, float] = {}
    for weight, ranks in rankings:
        if weight > 0:
            for one, rank in ranks.items():
                scores[one] = scores.get(one, 0.0) + weight / (k + rank)
    return scores
