"""What an engine has done since it started, counted for whoever watches operations."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Meter:
    """Counts that only rise."""

    hits: int = 0  # nodes whose outputs were there when their job began
    misses: int = 0
    batches: Counter[int] = field(default_factory=Counter[int])  # forward passes by rows
    node_runs: Counter[str] = field(default_factory=Counter[str])  # by class
    node_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
