"""What is thrown away: jobs that are over, with all that is kept of them. Pictures stay.

What there is to throw away is looked up by a reader; the writer then deletes it in small bites,
between which others have their turn.
"""

import sqlite3
from collections.abc import Iterable

from executor.ledger.queries import narrowed

# The two classes are counted apart: else clearing a long queue would push all pictures out.
SURPLUS = """
    SELECT job FROM jobs WHERE ended_seq IS NOT NULL AND (attempt > 0) = :has_run
    ORDER BY ended_seq DESC LIMIT -1 OFFSET :most
"""

# Walked from the oldest on, until one is young enough.
OLDEST = """
    SELECT job, ended_ms FROM jobs INDEXED BY ended
    WHERE ended_seq IS NOT NULL AND (attempt > 0) = :has_run ORDER BY ended_seq
"""

OVER = "SELECT job FROM jobs INDEXED BY ended WHERE ended_seq IS NOT NULL"

WAITING = "SELECT job FROM jobs INDEXED BY queue WHERE state = 'queued'"

FORGET_ROW = "DELETE FROM jobs WHERE job = :job AND ended_seq IS NOT NULL"

# The next time, when its end has been told to those who wanted to know.
FORGET_TOLD_ROW = (
    FORGET_ROW
    + " AND NOT EXISTS (SELECT 1 FROM hooks WHERE hooks.job = jobs.job AND due_ms IS NOT NULL)"
)

FORGET = """
    DELETE FROM jobs
    WHERE id = :id AND ended_seq IS NOT NULL AND (:owner IS NULL OR owner = :owner)
"""


def surplus(connection: sqlite3.Connection, most: int) -> list[int]:
    """The jobs that ended before the last ``most``."""
    return [
        row["job"]
        for has_run in (False, True)
        for row in connection.execute(SURPLUS, {"has_run": has_run, "most": most})
    ]


def outdated(connection: sqlite3.Connection, before_ms: int) -> list[int]:
    """The jobs that ended before then."""
    jobs: list[int] = []
    for has_run in (False, True):
        for row in connection.execute(OLDEST, {"has_run": has_run}):
            if row["ended_ms"] >= before_ms:
                break
            jobs.append(row["job"])
    return jobs


def over(connection: sqlite3.Connection, owner: str | None) -> list[int]:
    """All jobs that are over."""
    return _of(connection, OVER, owner)


def waiting(
    connection: sqlite3.Connection, owner: str | None, workflow_id: str | None = None
) -> list[int]:
    """All jobs that are queued, or all of one workflow."""
    statement = WAITING if workflow_id is None else WAITING + " AND workflow_id = :workflow_id"
    return _of(connection, statement, owner, workflow_id)


def _of(
    connection: sqlite3.Connection,
    statement: str,
    owner: str | None,
    workflow_id: str | None = None,
) -> list[int]:
    if owner is not None:
        statement = narrowed(statement)
    values = {"owner": owner, "workflow_id": workflow_id}
    return [row["job"] for row in connection.execute(statement, values)]


def forget_rows(connection: sqlite3.Connection, jobs: Iterable[int]) -> int:
    """Delete those of these rows that are over. Gives how many."""
    return connection.executemany(FORGET_ROW, [{"job": job} for job in jobs]).rowcount


def forget_told_rows(connection: sqlite3.Connection, jobs: Iterable[int]) -> int:
    """The same, but for those whose end is still to be told. Gives how many."""
    return connection.executemany(FORGET_TOLD_ROW, [{"job": job} for job in jobs]).rowcount


def forget(connection: sqlite3.Connection, job_ids: Iterable[str], owner: str | None) -> int:
    """Delete those of these jobs that are over. Gives how many."""
    values = [{"id": job_id, "owner": owner} for job_id in job_ids]
    return connection.executemany(FORGET, values).rowcount
