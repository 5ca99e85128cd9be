"""Counted durations: no quantile is further off than is said, and counts add up."""

from collections import Counter

from hypothesis import given
from hypothesis.strategies import integers, lists, sampled_from

from executor.ledger.durations import ERROR, bin_of, quantile_ms, value_of

DURATIONS = lists(integers(0, 10**7) | integers(0, 50), min_size=1, max_size=60)  # up to 3 hours
PERCENTS = sampled_from([1, 50, 90, 95, 99, 100])


def counted(durations: list[int]) -> Counter[int]:
    return Counter(map(bin_of, durations))


@given(DURATIONS, PERCENTS)
def test_quantiles_are_within_the_stated_error_of_the_exact_ones(
    durations: list[int], percent: int
) -> None:
    rank = -(-percent * len(durations) // 100)
    exact = sorted(durations)[rank - 1]
    told = quantile_ms(counted(durations), percent)
    assert told is not None
    assert abs(told - exact) <= ERROR * exact * (1 + 1e-9)  # logarithms are rounded


@given(DURATIONS, DURATIONS, PERCENTS)
def test_counts_that_are_added_are_those_of_all_together(
    first: list[int], second: list[int], percent: int
) -> None:
    together = counted(first) + counted(second)
    assert together == counted(first + second)
    assert quantile_ms(together, percent) == quantile_ms(counted(second + first), percent)


@given(integers(1, 10**12))
def test_longer_durations_are_in_no_lower_bin(duration_ms: int) -> None:
    assert 0 < bin_of(duration_ms) <= bin_of(duration_ms + 1)
    assert value_of(bin_of(duration_ms)) < value_of(bin_of(duration_ms) + 1)


def test_without_durations_there_are_no_quantiles() -> None:
    assert quantile_ms({}, 50) is None
    assert bin_of(-5) == bin_of(0) == 0  # a clock was set back
    assert quantile_ms({0: 3}, 99) == 0
