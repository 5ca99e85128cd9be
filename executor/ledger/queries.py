"""What is asked of the ledger: counts, pages of the queue and of the history, jobs, events, files.

A page is found first, as row numbers out of an index, and only what is on it is then read. Queries
on a reader's connection, within one transaction: they see one state.
"""

import json
import re
import sqlite3
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Literal

from executor.ledger.records import (
    Counts,
    EventKind,
    FullJob,
    JobBody,
    JobEvent,
    JobFile,
    JobPage,
    JobRecord,
    State,
)

# Statements that name an index of everybody's jobs are narrowed to one owner's by `narrowed`.

COUNTS = """
    SELECT state, jobs FROM counts WHERE :owner IS NULL OR owner = :owner
"""

# In the order in which they will run. The index is named as in `executor.ledger.queue`.
QUEUE_PAGE = """
    SELECT job FROM jobs INDEXED BY queue
    WHERE state = 'queued'
    ORDER BY number, job LIMIT :limit OFFSET :offset
"""

# The last to be submitted, by the row numbers at the end of `by_state`.
QUEUE_NEWEST = """
    SELECT job FROM jobs INDEXED BY by_state
    WHERE state = 'queued'
    ORDER BY job DESC LIMIT :limit
"""

RUNNING = """
    SELECT job FROM jobs INDEXED BY by_state
    WHERE state = 'running' ORDER BY job
"""

# Those that ran, in the order in which they ended.
HISTORY_PAGE = """
    SELECT job FROM jobs INDEXED BY ended
    WHERE ended_seq IS NOT NULL AND (attempt > 0) = 1
    ORDER BY ended_seq LIMIT :limit OFFSET :offset
"""

HISTORY_NEWEST = """
    SELECT job FROM jobs INDEXED BY ended
    WHERE ended_seq IS NOT NULL AND (attempt > 0) = 1
    ORDER BY ended_seq DESC LIMIT :limit
"""

# One state's jobs by submission; those of several states are merged, which sorts nothing.
IN_STATE = """
    SELECT job FROM jobs INDEXED BY by_state
    WHERE state = '{state}'
"""

# How long they ran; this one does sort.
BY_DURATION = """
    SELECT job FROM jobs INDEXED BY by_state
    WHERE state IN ({states})
    ORDER BY coalesce(ended_ms, :now_ms) - coalesce(started_ms, :now_ms) {direction},
        job {direction}
    LIMIT :limit OFFSET :offset
"""

ROW_OF = "SELECT job FROM jobs WHERE id = :id AND (:owner IS NULL OR owner = :owner)"

RECORD = """
    SELECT id, number, state, client_id, jobs.owner, workflow_id, jobs.attempt, deaths, worker,
        created_ms, started_ms, ended_ms, expires_ms, timeout_ms, output_count, results.error,
        filename, subfolder, type, node_id
    FROM jobs LEFT JOIN results USING (job) LEFT JOIN files ON files.file = jobs.preview
    WHERE jobs.job = :job
"""

FULL = """
    SELECT prompt, extra_data, targets, outputs
    FROM bodies LEFT JOIN results USING (job) WHERE bodies.job = :job
"""

EVENT = """
    SELECT seq, id AS job_id, events.client_id, events.owner, events.attempt, kind, data, time_ms
    FROM events JOIN jobs USING (job)
"""

# A job's own, of its present attempt: by `events_of_job`.
LAST_ATTEMPT = (
    EVENT
    + """
    WHERE events.job = :job AND events.attempt = jobs.attempt AND kind <> 'executed' ORDER BY seq
"""
)

# Since a number. Named, so that SQLite walks one job's events or one client's, never all.
OF_JOB = (
    EVENT.replace("FROM events", "FROM events INDEXED BY events_of_job")
    + "WHERE events.job = (SELECT job FROM jobs WHERE id = :id) AND seq > :since"
    + " ORDER BY seq LIMIT :limit"
)
OF_CLIENT = (
    EVENT.replace("FROM events", "FROM events INDEXED BY events_of_client")
    + "WHERE events.client_id = :client_id AND seq > :since"
    + " AND (:owner IS NULL OR events.owner = :owner) ORDER BY seq LIMIT :limit"
)
OF_OWNER = (
    EVENT.replace("FROM events", "FROM events INDEXED BY events_of_owner")
    + "WHERE events.owner = :owner AND seq > :since ORDER BY seq LIMIT :limit"
)

NEWEST_SEQ = "SELECT coalesce(max(seq), 0) AS seq FROM sqlite_sequence WHERE name = 'events'"

# Of a job that left it, or of an upload.
FILE_OWNERS = """
    SELECT DISTINCT owner FROM files
    WHERE filename = :filename AND subfolder = :subfolder AND type = :type
    UNION ALL
    SELECT owner FROM uploads
    WHERE filename = :filename AND subfolder = :subfolder AND type = :type
"""

Sort = Literal["created", "duration"]


@cache
def narrowed(statement: str) -> str:
    """The same for the jobs of ``:owner``, by the index that has one owner's in that order."""
    narrow = r"INDEXED BY \1_of_owner WHERE owner = :owner AND "
    return re.sub(r"INDEXED BY (\w+)\s+WHERE ", narrow, statement)


def counts(connection: sqlite3.Connection, owner: str | None) -> Counts:
    """How many jobs there are in each state."""
    of = dict.fromkeys(State, 0)
    for row in connection.execute(COUNTS, {"owner": owner}):
        of[State(row["state"])] += row["jobs"]
    return Counts(of)


def queue(
    connection: sqlite3.Connection, limit: int, offset: int | None, owner: str | None
) -> tuple[FullJob, ...]:
    """Queued jobs in their order: from ``offset`` on, or without one the newest."""
    if offset is not None:
        page = {"owner": owner, "limit": limit, "offset": offset}
        return _full(connection, _rows(connection, QUEUE_PAGE, page))
    newest = _rows(connection, QUEUE_NEWEST, {"owner": owner, "limit": limit})
    by_submission = _full(connection, newest[::-1])
    return tuple(sorted(by_submission, key=lambda job: job.record.number))


def running(connection: sqlite3.Connection, owner: str | None) -> tuple[FullJob, ...]:
    """All running jobs, in the order of submission."""
    return _full(connection, _rows(connection, RUNNING, {"owner": owner}))


def history(
    connection: sqlite3.Connection, limit: int, offset: int | None, owner: str | None
) -> tuple[FullJob, ...]:
    """Jobs that ran and ended, oldest first: from ``offset`` on, or without one the newest."""
    if offset is not None:
        page = {"owner": owner, "limit": limit, "offset": offset}
        return _full(connection, _rows(connection, HISTORY_PAGE, page))
    newest = _rows(connection, HISTORY_NEWEST, {"owner": owner, "limit": limit})
    return _full(connection, newest[::-1])


def jobs(
    connection: sqlite3.Connection,
    states: Collection[State],
    limit: int,
    offset: int,
    owner: str | None,
    sort: Sort,
    is_newest_first: bool,
    now_ms: int,
) -> JobPage:
    """Jobs in any of these states, and how many there are."""
    chosen = [state for state in State if state in states]
    page = {"owner": owner, "limit": limit, "offset": offset, "now_ms": now_ms}
    rows = _rows(connection, listing(chosen, sort, is_newest_first), page) if chosen else []
    found = counts(connection, owner)
    return JobPage(
        tuple(record(connection, row) for row in rows),
        sum(found.of[state] for state in chosen),
    )


def listing(states: Sequence[State], sort: Sort, is_newest_first: bool) -> str:
    """The statement that finds a page of jobs in some states."""
    direction = "DESC" if is_newest_first else "ASC"
    if sort == "duration":
        names = ", ".join(f"'{state}'" for state in states)
        return BY_DURATION.format(states=names, direction=direction)
    merged = " UNION ALL ".join(IN_STATE.format(state=state) for state in states)
    return f"{merged} ORDER BY job {direction} LIMIT :limit OFFSET :offset"


def job(connection: sqlite3.Connection, job_id: str, owner: str | None) -> FullJob | None:
    """One job, with all that is kept of it."""
    found = _full(connection, _rows(connection, ROW_OF, {"id": job_id, "owner": owner}))
    return found[0] if found else None


def job_record(connection: sqlite3.Connection, job_id: str, owner: str | None) -> JobRecord | None:
    """One job, without what may be large."""
    rows = _rows(connection, ROW_OF, {"id": job_id, "owner": owner})
    return record(connection, rows[0]) if rows else None


def record(connection: sqlite3.Connection, row: int) -> JobRecord:
    """A job by its row number."""
    values: dict[str, Any] = dict(connection.execute(RECORD, {"job": row}).fetchone())
    file = {name: values.pop(name) for name in ("filename", "subfolder", "type", "node_id")}
    preview = None if file["filename"] is None else JobFile(**file)
    state = State(values.pop("state"))
    return JobRecord(**values, state=state, preview=preview)


def events(
    connection: sqlite3.Connection,
    statement: str,
    of: str,
    since: int,
    limit: int,
    owner: str | None = None,
) -> tuple[JobEvent, ...]:
    """The events after ``since`` of one job or client, or of an owner, as the statement says."""
    values = {"id": of, "client_id": of, "owner": owner, "since": since, "limit": limit}
    return tuple(_event(row) for row in connection.execute(statement, values))


def newest_seq(connection: sqlite3.Connection) -> int:
    """The number of the last event, of whatever job."""
    return connection.execute(NEWEST_SEQ).fetchone()["seq"]


def file_owners(
    connection: sqlite3.Connection, filename: str, subfolder: str, type: str
) -> frozenset[str]:
    """Whose jobs left this file."""
    values = {"filename": filename, "subfolder": subfolder, "type": type}
    return frozenset(row["owner"] for row in connection.execute(FILE_OWNERS, values))


def owners_of_files(
    connection: sqlite3.Connection, type: str, names: Sequence[str]
) -> list[frozenset[str]]:
    """Whose jobs left these files, each ``subfolder/filename``, and who uploaded them."""
    parts = [name.rpartition("/") for name in names]
    return [file_owners(connection, filename, folder, type) for folder, _, filename in parts]


def _rows(connection: sqlite3.Connection, statement: str, values: dict[str, Any]) -> list[int]:
    if values.get("owner") is not None:
        statement = narrowed(statement)
    return [row["job"] for row in connection.execute(statement, values)]


def _full(connection: sqlite3.Connection, rows: Sequence[int]) -> tuple[FullJob, ...]:
    found: list[FullJob] = []
    for row in rows:
        rest = connection.execute(FULL, {"job": row}).fetchone()
        told = tuple(_event(event) for event in connection.execute(LAST_ATTEMPT, {"job": row}))
        body = JobBody(rest["prompt"], rest["extra_data"], tuple(json.loads(rest["targets"])))
        found.append(FullJob(record(connection, row), body, rest["outputs"] or "{}", told))
    return tuple(found)


def _event(row: sqlite3.Row) -> JobEvent:
    values: dict[str, Any] = dict(row)
    kind = EventKind(values.pop("kind"))
    return JobEvent(**values, kind=kind)
