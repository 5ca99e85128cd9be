"""What is asked of the figures of checkpoints: totals, the last hour, day and week, and over time.

A window holds the minutes or hours that began within it. Queries on a reader's connection, which
walk one checkpoint's rows of that time and no others.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from executor.ledger.durations import Counted, quantile_ms
from executor.ledger.figures import DAY_MS, HOUR_MS, MINUTE_MS

WINDOWS: Mapping[str, tuple[int, int]] = {
    "1h": (HOUR_MS, MINUTE_MS),
    "24h": (DAY_MS, HOUR_MS),
    "7d": (7 * DAY_MS, HOUR_MS),
}
"""How long each is, and of which spans it is made up, in ms."""

CHECKPOINTS = "SELECT checkpoint, name FROM checkpoints"

NUMBER_OF = "SELECT checkpoint FROM checkpoints WHERE name = :name"

PROVIDERS = """
    SELECT worker, succeeded, failed, cancelled, timed_out, pictures, last_ms
    FROM providers WHERE checkpoint = :checkpoint
"""

IN_WINDOW = """
    SELECT began_ms / :width_ms * :width_ms AS since_ms,
        sum(succeeded) AS succeeded, sum(failed) AS failed, sum(cancelled) AS cancelled,
        sum(timed_out) AS timed_out, sum(pictures) AS pictures,
        sum(timed_pictures) AS timed_pictures, sum(running_ms) AS running_ms
    FROM figures WHERE checkpoint = :checkpoint AND span_ms = :span_ms AND began_ms > :after_ms
    GROUP BY since_ms ORDER BY since_ms
"""

DURATIONS_IN_WINDOW = """
    SELECT began_ms / :width_ms * :width_ms AS since_ms, stage, bin, sum(jobs) AS jobs
    FROM durations WHERE checkpoint = :checkpoint AND span_ms = :span_ms AND began_ms > :after_ms
    GROUP BY since_ms, stage, bin
"""

STAGES = ("waiting", "running")
_COUNTED = ("succeeded", "failed", "cancelled", "timed_out", "pictures")

_WHOLE = 2**62
"""A width in which all time is one bucket, which began at 0."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of a checkpoint's jobs in some time."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    timed_out: int = 0
    pictures: int = 0
    timed_pictures: int = 0  # those of jobs whose durations are counted
    running_ms: int = 0  # of those jobs, together
    waiting: Counted = field(default_factory=dict[int, int])
    running: Counted = field(default_factory=dict[int, int])

    @property
    def requests(self) -> int:
        """All jobs that ended."""
        return self.succeeded + self.failed + self.cancelled + self.timed_out

    @property
    def success_rate(self) -> float | None:
        """Of those that nobody cancelled; None without any."""
        tried = self.requests - self.cancelled
        return self.succeeded / tried if tried else None

    @property
    def pictures_per_second(self) -> float | None:
        """How many pictures a job made in a second that it ran; None if nobody knows."""
        return self.timed_pictures / self.running_ms * 1000 if self.running_ms else None

    def waiting_ms(self, percent: int) -> float | None:
        """How long so many per cent of the jobs waited at most (``durations``)."""
        return quantile_ms(self.waiting, percent)

    def run_ms(self, percent: int) -> float | None:
        """How long so many per cent of the jobs ran at most."""
        return quantile_ms(self.running, percent)


@dataclass(frozen=True, slots=True)
class Provider:
    """What a worker has done with a checkpoint, or with no worker, what came to no worker."""

    worker: str
    figures: Figures  # of all times, without durations
    last_ms: int | None  # when the last job ended that had run


@dataclass(frozen=True, slots=True)
class CheckpointFigures:
    """All that is counted of a checkpoint now."""

    providers: tuple[Provider, ...]
    windows: Mapping[str, Figures]

    @property
    def total(self) -> Figures:
        """Of all times, without durations."""
        counted: dict[str, Any] = {
            name: sum(getattr(provider.figures, name) for provider in self.providers)
            for name in _COUNTED
        }
        return Figures(**counted)

    @property
    def last_ms(self) -> int | None:
        """When a job of it last ended that had run."""
        return max((one.last_ms for one in self.providers if one.last_ms), default=None)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A checkpoint's figures from a moment on, for as long as was asked."""

    since_ms: int
    figures: Figures


def figures(connection: sqlite3.Connection, now_ms: int) -> dict[str, CheckpointFigures]:
    """The figures of every checkpoint that was ever used, by name."""
    found: dict[str, CheckpointFigures] = {}
    for row in connection.execute(CHECKPOINTS).fetchall():
        windows: dict[str, Figures] = {}
        for window, (length_ms, span_ms) in WINDOWS.items():
            after_ms = now_ms - length_ms
            buckets = _buckets(connection, row["checkpoint"], span_ms, _WHOLE, after_ms)
            windows[window] = buckets[0].figures if buckets else Figures()
        providers = tuple(
            Provider(by["worker"], Figures(*(by[name] for name in _COUNTED)), by["last_ms"] or None)
            for by in connection.execute(PROVIDERS, {"checkpoint": row["checkpoint"]})
        )
        found[row["name"]] = CheckpointFigures(providers, windows)
    return found


def over_time(
    connection: sqlite3.Connection, name: str, span_ms: int, width_ms: int, after_ms: int
) -> tuple[Bucket, ...]:
    """A checkpoint's figures in buckets of ``width_ms``, a multiple of ``span_ms``.

    Oldest first; those without any jobs are left out.
    """
    row = connection.execute(NUMBER_OF, {"name": name}).fetchone()
    if row is None:
        return ()
    return tuple(_buckets(connection, row["checkpoint"], span_ms, width_ms, after_ms))


def _buckets(
    connection: sqlite3.Connection, checkpoint: int, span_ms: int, width_ms: int, after_ms: int
) -> list[Bucket]:
    at = {
        "checkpoint": checkpoint,
        "span_ms": span_ms,
        "width_ms": width_ms,
        "after_ms": after_ms,
    }
    counted: dict[tuple[int, str], dict[int, int]] = {}
    for row in connection.execute(DURATIONS_IN_WINDOW, at):
        counted.setdefault((row["since_ms"], row["stage"]), {})[row["bin"]] = row["jobs"]
    buckets: list[Bucket] = []
    for row in connection.execute(IN_WINDOW, at):
        values: dict[str, Any] = dict(row)
        since_ms = values.pop("since_ms")
        waiting, running = (counted.get((since_ms, stage), {}) for stage in STAGES)
        buckets.append(Bucket(since_ms, Figures(**values, waiting=waiting, running=running)))
    return buckets
