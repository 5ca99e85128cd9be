"""What checkpoints have done: jobs by how they ended, pictures, how long jobs waited and ran.

Counted in the transaction that ends a job, by minute, hour and day, so that they outlast the job's
place in the history. A job of several checkpoints counts for each; how long it took is no single
one's, and counts for none. Operations on the writer's connection; ``figures_read`` asks.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from executor.ledger.durations import bin_of
from executor.ledger.records import Checkpoints, State

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

ENDS = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT)
"""As the tables have their columns."""

KEPT_MS: Mapping[int, int] = {
    MINUTE_MS: 2 * DAY_MS,
    HOUR_MS: 32 * DAY_MS,
    DAY_MS: 3 * 366 * DAY_MS,
}
"""For how long each is kept. A busy hour or day is some hundred small rows."""

# The number that the other tables know a checkpoint by.
NUMBER_OF = "SELECT checkpoint FROM checkpoints WHERE name = ?"
ADD = "INSERT INTO checkpoints (name) VALUES (?) RETURNING checkpoint"

# Of all times, by worker; without one where no worker had the job at its end.
COUNT = """
    INSERT INTO providers (checkpoint, worker, succeeded, failed, cancelled, timed_out, pictures,
        last_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET succeeded = succeeded + excluded.succeeded,
        failed = failed + excluded.failed, cancelled = cancelled + excluded.cancelled,
        timed_out = timed_out + excluded.timed_out, pictures = pictures + excluded.pictures,
        last_ms = max(last_ms, excluded.last_ms)
"""

# Each at once for the minute, the hour and the day of ?2.
COUNT_IN_SPANS = f"""
    INSERT INTO figures (checkpoint, span_ms, began_ms, succeeded, failed, cancelled, timed_out,
        pictures, timed_pictures, running_ms)
    VALUES (?1, {MINUTE_MS}, ?2 - ?2 % {MINUTE_MS}, ?3, ?4, ?5, ?6, ?7, ?8, ?9),
        (?1, {HOUR_MS}, ?2 - ?2 % {HOUR_MS}, ?3, ?4, ?5, ?6, ?7, ?8, ?9),
        (?1, {DAY_MS}, ?2 - ?2 % {DAY_MS}, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT DO UPDATE SET succeeded = succeeded + excluded.succeeded,
        failed = failed + excluded.failed, cancelled = cancelled + excluded.cancelled,
        timed_out = timed_out + excluded.timed_out, pictures = pictures + excluded.pictures,
        timed_pictures = timed_pictures + excluded.timed_pictures,
        running_ms = running_ms + excluded.running_ms
"""
COUNT_DURATION = f"""
    INSERT INTO durations (checkpoint, span_ms, began_ms, stage, bin, jobs)
    VALUES (?1, {MINUTE_MS}, ?2 - ?2 % {MINUTE_MS}, ?3, ?4, 1),
        (?1, {HOUR_MS}, ?2 - ?2 % {HOUR_MS}, ?3, ?4, 1),
        (?1, {DAY_MS}, ?2 - ?2 % {DAY_MS}, ?3, ?4, 1)
    ON CONFLICT DO UPDATE SET jobs = jobs + 1
"""

# Of many that are cancelled at once in the queue: what `queue.cancel_rows` is about to end.
WAITING = """
    SELECT checkpoints, count(*) AS jobs FROM json_each(:rows) CROSS JOIN jobs ON job = value
    WHERE +state = 'queued' AND checkpoints <> '' GROUP BY checkpoints
"""

ALL = "SELECT checkpoint FROM checkpoints"

PRUNE = """
    DELETE FROM {table} WHERE checkpoint = ? AND span_ms = ? AND began_ms < ?
"""


@dataclass(frozen=True, slots=True)
class _Ended:
    """What jobs that ended add to one checkpoint's figures."""

    state: State
    jobs: int = 1
    pictures: int = 0
    has_run: bool = False
    worker: str = ""
    waiting_ms: int | None = None
    running_ms: int | None = None


def count(
    connection: sqlite3.Connection,
    job: sqlite3.Row,
    state: State,
    outputs: Mapping[str, Mapping[str, Sequence[Any]]],
    now_ms: int,
) -> None:
    """Count a job that ends now; its row is as ``results.END`` returns it."""
    if not job["checkpoints"]:
        return
    checkpoints = Checkpoints.from_text(job["checkpoints"])
    pictures = checkpoints.shares({node: _pictures(of) for node, of in outputs.items()})
    waiting_ms = running_ms = None
    if state is State.SUCCEEDED and len(checkpoints.names) == 1:
        running_ms = max(0, now_ms - job["started_ms"])
        if job["attempt"] == 1:  # before a later one, it did not only wait
            waiting_ms = job["started_ms"] - job["created_ms"]
    for name, share in zip(checkpoints.names, pictures, strict=True):
        ended = _Ended(state, 1, share, job["attempt"] > 0, job["worker"], waiting_ms, running_ms)
        _add(connection, name, ended, now_ms)


def count_cancelled(connection: sqlite3.Connection, rows: str, now_ms: int) -> None:
    """Count those of these rows, a JSON list, that wait in the queue and are cancelled now."""
    for row in connection.execute(WAITING, {"rows": rows}).fetchall():
        for name in Checkpoints.from_text(row["checkpoints"]).names:
            _add(connection, name, _Ended(State.CANCELLED, row["jobs"]), now_ms)


def prune(connection: sqlite3.Connection, now_ms: int) -> None:
    """Delete the minutes, hours and days that are too old; totals stay."""
    for row in connection.execute(ALL).fetchall():
        for span_ms, kept_ms in KEPT_MS.items():
            for table in ("figures", "durations"):
                values = (row["checkpoint"], span_ms, now_ms - kept_ms)
                connection.execute(PRUNE.format(table=table), values)


def _add(connection: sqlite3.Connection, name: str, ended: _Ended, now_ms: int) -> None:
    row = connection.execute(NUMBER_OF, (name,)).fetchone()
    row = row or connection.execute(ADD, (name,)).fetchone()
    at = (row["checkpoint"], now_ms)
    counted = (*(ended.jobs if ended.state is end else 0 for end in ENDS), ended.pictures)
    connection.execute(COUNT, (at[0], ended.worker, *counted, now_ms if ended.has_run else 0))
    timed = (0, 0) if ended.running_ms is None else (ended.pictures, ended.running_ms)
    connection.execute(COUNT_IN_SPANS, (*at, *counted, *timed))
    if ended.waiting_ms is not None:
        connection.execute(COUNT_DURATION, (*at, "waiting", bin_of(ended.waiting_ms)))
    if ended.running_ms is not None:
        connection.execute(COUNT_DURATION, (*at, "running", bin_of(ended.running_ms)))


def _pictures(kinds: Mapping[str, Sequence[Any]]) -> int:
    """How many pictures a node left to be kept."""
    return sum(file["type"] == "output" for file in kinds.get("images", ()))
