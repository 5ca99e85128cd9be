"""Into the queue and out of it: what is submitted, taken, put back, given up while it waits.

The order is ``number``, then the order of submission. Operations on the writer's connection, each
of which either happens as a whole or not at all.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from executor.errors import JobExists, JobRefused, QueueFull
from executor.ledger import figures, hooks
from executor.ledger.records import Accepted, JobBody, JobEvent, NewJob, Requeued, State, TakenJob
from executor.ledger.results import end, running

MAX_DEATHS = 2
"""A job under which this many workers died is not tried again: it may well be the cause."""

# The next order of submission. `sqlite_sequence` is SQLite's own table, of two rows.
NEXT = "SELECT coalesce(max(seq), 0) + 1 AS next FROM sqlite_sequence WHERE name = 'jobs'"

BY_KEY = "SELECT id, number FROM jobs WHERE owner = :owner AND idempotency_key = :key"

# The next one of an owner who has a limit is one too many.
WAITING_OF = "SELECT jobs FROM counts WHERE owner = :owner AND state = 'queued'"

# What was submitted under an id; compared here, so that a large prompt is not copied for it.
BY_ID = """
    SELECT id, number, owner = :owner AND prompt = :prompt AND extra_data = :extra_data
        AND targets = :targets AS is_same
    FROM jobs JOIN bodies USING (job) WHERE id = :id
"""

ADD_JOB = """
    INSERT INTO jobs (job, id, number, state, client_id, owner, idempotency_key, workflow_id,
        created_ms, expires_ms, timeout_ms, checkpoints)
    VALUES (:job, :id, :number, 'queued', :client_id, :owner, :key, :workflow_id,
        :created_ms, :expires_ms, :timeout_ms, :checkpoints)
"""

ADD_BODY = """
    INSERT INTO bodies (job, prompt, extra_data, targets)
    VALUES (:job, :prompt, :extra_data, :targets)
"""

# The head of the queue, past what `expire` is about to remove. The index is named, since SQLite
# would take `by_state` and sort all that is queued.
HEAD = """
    SELECT job FROM jobs INDEXED BY queue
    WHERE state = 'queued' AND (expires_ms IS NULL OR expires_ms > :now_ms)
    ORDER BY number, job LIMIT :limit
"""

TAKE = """
    UPDATE jobs SET state = 'running', attempt = attempt + 1, started_ms = :now_ms
    WHERE job = :job
    RETURNING id, attempt, number + 0.0 AS number, client_id, owner, timeout_ms, created_ms,
        started_ms
"""

# Which worker has it is known a moment after it was taken: that depends on what it needs.
ASSIGN = """
    UPDATE jobs SET worker = :worker
    WHERE id = :id AND attempt = :attempt AND state = 'running'
"""

BODY = "SELECT prompt, extra_data, targets FROM bodies WHERE job = :job"

# Back in its old place, which is its number's.
REQUEUE = """
    UPDATE jobs SET state = 'queued', deaths = deaths + :deaths, worker = '', started_ms = NULL
    WHERE job = :job RETURNING deaths
"""

CAME_TO_NOTHING = """
    SELECT job, owner FROM jobs WHERE id = :id AND state IN ('failed', 'timed_out')
"""

# Behind all that wait; it may wait as long as it could at first.
RETRY = """
    UPDATE jobs SET state = 'queued', number = :number, deaths = 0, worker = '', started_ms = NULL,
        ended_ms = NULL, ended_seq = NULL, output_count = 0, preview = NULL,
        expires_ms = :now_ms + (expires_ms - created_ms), created_ms = :now_ms
    WHERE job = :job
"""

# Those that ran when the process ended; as many as there were workers.
RECOVER = """
    UPDATE jobs SET state = 'queued', worker = '', started_ms = NULL WHERE state = 'running'
"""

QUEUED = """
    SELECT job, id, client_id, owner, attempt FROM jobs
    WHERE id = :id AND state = 'queued' AND (:owner IS NULL OR owner = :owner)
"""

# Many at once, by row number: first the events of their ends, then the ends. The planner is kept
# from walking all that is queued by the unary plus.
END_ROWS = """
    INSERT INTO events (job, client_id, owner, attempt, kind, data, time_ms)
    SELECT job, client_id, owner, attempt, 'ended', '{"state":"cancelled","error":null}', :now_ms
    FROM json_each(:rows) CROSS JOIN jobs ON job = value WHERE +state = 'queued'
"""
CANCEL_ROWS = """
    UPDATE jobs SET state = 'cancelled', ended_ms = :now_ms,
        ended_seq = (SELECT max(seq) FROM events WHERE events.job = jobs.job)
    WHERE job IN (SELECT value FROM json_each(:rows)) AND +state = 'queued'
"""

EXPIRED = """
    SELECT job, id, client_id, owner, attempt FROM jobs INDEXED BY expiring
    WHERE state = 'queued' AND expires_ms <= :now_ms ORDER BY expires_ms LIMIT :limit
"""

WORKER_LOST = json.dumps(
    {
        "node_id": None,
        "node_type": None,
        "message": f"{MAX_DEATHS} workers died while they ran this job; it is not tried again",
        "exception_type": "worker_lost",
        "traceback": [],
    }
)

EXPIRED_ERROR = json.dumps(
    {
        "node_id": None,
        "node_type": None,
        "message": "the job waited in the queue for longer than it was allowed to",
        "exception_type": "expired",
        "traceback": [],
    }
)


def submit(
    connection: sqlite3.Connection, new: NewJob, most_queued: int | None, now_ms: int
) -> Accepted:
    """Queue a job, unless it was before. Raises JobExists, JobRefused, QueueFull."""
    if new.idempotency_key is not None:
        key = {"owner": new.owner, "key": new.idempotency_key}
        if (first := connection.execute(BY_KEY, key).fetchone()) is not None:
            return Accepted(first["id"], first["number"], is_repeat=True)
    job_id = new.id or str(uuid4())
    body = {
        "prompt": new.prompt,
        "extra_data": new.extra_data,
        "targets": json.dumps(new.targets),
    }
    if new.id is not None:
        asked = {"id": job_id, "owner": new.owner, **body}
        if (first := connection.execute(BY_ID, asked).fetchone()) is not None:
            if not first["is_same"]:
                raise JobExists(f"there is another job {job_id!r} already; choose another id")
            return Accepted(first["id"], first["number"], is_repeat=True)
    _check_room(connection, new.owner, most_queued)
    job: int = connection.execute(NEXT).fetchone()["next"]
    number = new.number if new.number is not None else -job if new.is_front else job
    connection.execute(
        ADD_JOB,
        {
            "job": job,
            "id": job_id,
            "number": number,
            "client_id": new.client_id,
            "owner": new.owner,
            "key": new.idempotency_key,
            "workflow_id": new.workflow_id,
            "created_ms": now_ms,
            "expires_ms": None if new.ttl_ms is None else now_ms + new.ttl_ms,
            "timeout_ms": new.timeout_ms,
            "checkpoints": new.checkpoints.text(),
        },
    )
    try:
        connection.execute(ADD_BODY, {"job": job, **body})
    except sqlite3.IntegrityError as error:  # the table's checks
        raise JobRefused(
            "prompt and extra_data must be JSON, without NaN and nested less than 1,000 deep"
        ) from error
    except (sqlite3.DataError, OverflowError) as error:
        raise JobRefused(f"the prompt is too large: {len(new.prompt):,} characters") from error
    if new.hook is not None:
        hooks.add(connection, job, new.owner, new.hook)
    return Accepted(job_id, float(number), is_repeat=False)


def _check_room(connection: sqlite3.Connection, owner: str, most: int | None) -> None:
    """Raises QueueFull if so many of an owner's jobs wait already."""
    if most is not None:
        waiting = connection.execute(WAITING_OF, {"owner": owner}).fetchone()
        if waiting is not None and waiting["jobs"] >= most:
            raise QueueFull(f"{waiting['jobs']:,} jobs wait already; {most:,} is the most")


def take(connection: sqlite3.Connection, limit: int, now_ms: int) -> tuple[TakenJob, ...]:
    """The next jobs of the queue, which run from now on."""
    heads = connection.execute(HEAD, {"limit": limit, "now_ms": now_ms}).fetchall()
    taken: list[TakenJob] = []
    for head in heads:
        job: int = head["job"]
        values = {"job": job, "now_ms": now_ms}
        row = connection.execute(TAKE, values).fetchone()
        taken.append(TakenJob(**row, body=body_of(connection, job)))
    return tuple(taken)


def assign(connection: sqlite3.Connection, job_id: str, attempt: int, worker: str) -> bool:
    """Note which worker has a running job."""
    values = {"id": job_id, "attempt": attempt, "worker": worker}
    return connection.execute(ASSIGN, values).rowcount == 1


def body_of(connection: sqlite3.Connection, job: int) -> JobBody:
    """What the client sent."""
    row = connection.execute(BODY, {"job": job}).fetchone()
    return JobBody(row["prompt"], row["extra_data"], tuple(json.loads(row["targets"])))


def requeue(
    connection: sqlite3.Connection, job_id: str, attempt: int, has_died: bool, now_ms: int
) -> Requeued | None:
    """Put a running job back, or fail it if too many workers died under it.

    Gives None if it does not run under this attempt.
    """
    job = running(connection, job_id, attempt)
    if job is None:
        return None
    row = connection.execute(REQUEUE, {"job": job["job"], "deaths": int(has_died)}).fetchone()
    if row["deaths"] < MAX_DEATHS:
        return Requeued()
    return Requeued(end(connection, job, State.FAILED, {}, WORKER_LOST, now_ms))


def retry(
    connection: sqlite3.Connection, job_id: str, most_queued: int | None, now_ms: int
) -> bool:
    """Queue a job again that failed or timed out; False if there is none such. Raises QueueFull."""
    job = connection.execute(CAME_TO_NOTHING, {"id": job_id}).fetchone()
    if job is None:
        return False
    _check_room(connection, job["owner"], most_queued)
    number = connection.execute(NEXT).fetchone()["next"]
    connection.execute(RETRY, {"job": job["job"], "number": number, "now_ms": now_ms})
    connection.execute("DELETE FROM results WHERE job = :job", {"job": job["job"]})
    return True


def recover(connection: sqlite3.Connection) -> int:
    """Put all running jobs back: the process that ran them is gone. Gives how many."""
    return connection.execute(RECOVER).rowcount


def cancel(
    connection: sqlite3.Connection, job_ids: Iterable[str], owner: str | None, now_ms: int
) -> tuple[JobEvent, ...]:
    """Give up those that wait in the queue; the events of their ends."""
    found = (
        connection.execute(QUEUED, {"id": job_id, "owner": owner}).fetchone() for job_id in job_ids
    )
    return tuple(end(connection, job, State.CANCELLED, {}, None, now_ms) for job in found if job)


def cancel_rows(connection: sqlite3.Connection, rows: Sequence[int], now_ms: int) -> int:
    """Give up those of these rows that still wait in the queue. Gives how many."""
    values: dict[str, Any] = {"rows": json.dumps(rows), "now_ms": now_ms}
    figures.count_cancelled(connection, values["rows"], now_ms)
    connection.execute(END_ROWS, values)
    return connection.execute(CANCEL_ROWS, values).rowcount


def expire(connection: sqlite3.Connection, limit: int, now_ms: int) -> tuple[JobEvent, ...]:
    """Give up some of those that have waited for too long; the events of their ends."""
    jobs = connection.execute(EXPIRED, {"now_ms": now_ms, "limit": limit}).fetchall()
    return tuple(end(connection, job, State.TIMED_OUT, {}, EXPIRED_ERROR, now_ms) for job in jobs)
