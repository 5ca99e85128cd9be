"""Durations counted in bins that widen by one ratio, so that counts merge by being added.

After DDSketch (Masson, Rim and Lee 2019, section 2). Bin 0 holds what took no millisecond, bin
i > 0 what took more than γ^(i-2) and at most γ^(i-1) ms. A quantile is told as its bin's value,
2γ^(i-1) / (γ + 1): with γ = (1 + ERROR) / (1 - ERROR) it is off by at most ERROR of the exact one,
which is the shortest duration that so many per cent of all do not exceed.
"""

from collections.abc import Mapping
from math import ceil, log
from typing import TypeAlias

ERROR = 0.05
"""Of any quantile, relatively. From a millisecond to a day are 183 bins."""

RATIO = (1 + ERROR) / (1 - ERROR)

Counted: TypeAlias = Mapping[int, int]
"""How many durations there are, by their bin."""


def bin_of(duration_ms: int) -> int:
    """The bin of a duration; a negative one, as clocks that are set make them, is none."""
    return 0 if duration_ms <= 0 else 1 + ceil(log(duration_ms) / log(RATIO))


def value_of(bin: int) -> float:
    """The duration that a bin stands for, in ms."""
    return 0.0 if bin == 0 else 2 * RATIO ** (bin - 1) / (RATIO + 1)


def quantile_ms(counted: Counted, percent: int) -> float | None:
    """What so many per cent of the durations do not exceed; None if there are none."""
    left = -(-percent * sum(counted.values()) // 100)  # rounded up, exactly
    for bin in sorted(counted):
        left -= counted[bin]
        if left <= 0:
            return value_of(bin)
    return None
