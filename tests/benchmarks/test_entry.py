"""Two distributions that differ are told apart, and others are not."""

import random

from benchmarks.entry import auc, interval


def test_what_overlaps_is_told_from_what_does_not() -> None:
    assert auc([3, 4, 5], [0, 1, 2]) == 1.0
    assert auc([1, 2], [1, 2]) == 0.5
    assert auc([2, 3], [1, 2]) == 0.875
    drawn = random.Random(7)
    alike = [[drawn.gauss(100, 10) for _ in range(200)] for _ in range(2)]
    low, high = interval(*alike)
    assert low < 0.5 < high
    low, _ = interval([time + 10 for time in alike[0]], alike[1])
    assert low > 0.5
