"""Whom to tell of jobs' ends: who asked for it, when it is due, and how often it was in vain.

A hook becomes due by a trigger, however its job ends, so that none is forgotten by whoever ends a
job, and each end has an id of its own. Once told a hook stays, for the next end of a job that is
tried again.
Operations on the writer's connection, ``due`` on a reader's.
"""

import json
import sqlite3
from collections.abc import Collection
from uuid import uuid4

from executor.ledger.records import DueHook, NewHook

ADD = """
    INSERT INTO hooks (id, job, owner, url, host, renderer, base_url)
    VALUES (:id, :job, :owner, :url, :host, :renderer, :base_url)
"""

# Walked from what is longest due on. Those of the busy are passed over, so that they hold up
# nobody behind them.
DUE = """
    SELECT hooks.id, jobs.id AS job_id, hooks.owner, url, host, renderer, base_url, tries
    FROM hooks INDEXED BY hooks_due JOIN jobs USING (job)
    WHERE due_ms <= :now_ms AND ended_seq IS NOT NULL
        AND hooks.id NOT IN (SELECT value FROM json_each(:apart_from))
        AND hooks.owner NOT IN (SELECT value FROM json_each(:owners))
        AND host NOT IN (SELECT value FROM json_each(:hosts))
    ORDER BY due_ms LIMIT :limit
"""

TOLD = "UPDATE hooks SET due_ms = NULL WHERE id = :id"

FAILED = "UPDATE hooks SET tries = tries + 1, due_ms = :due_ms WHERE id = :id"


def add(connection: sqlite3.Connection, job: int, owner: str, hook: NewHook) -> None:
    """Have the end of a job told."""
    connection.execute(
        ADD,
        {
            "id": str(uuid4()),
            "job": job,
            "owner": owner,
            "url": hook.url,
            "host": hook.host,
            "renderer": hook.renderer,
            "base_url": hook.base_url,
        },
    )


def due(
    connection: sqlite3.Connection,
    limit: int,
    apart_from: Collection[str],
    owners: Collection[str],
    hosts: Collection[str],
    now_ms: int,
) -> tuple[DueHook, ...]:
    """What is to be told now."""
    values = {
        "now_ms": now_ms,
        "limit": limit,
        "apart_from": json.dumps([*apart_from]),
        "owners": json.dumps([*owners]),
        "hosts": json.dumps([*hosts]),
    }
    return tuple(DueHook(**dict(row)) for row in connection.execute(DUE, values))


def told(connection: sqlite3.Connection, hook_id: str) -> None:
    """It is done with, until the job's next end."""
    connection.execute(TOLD, {"id": hook_id})


def failed(connection: sqlite3.Connection, hook_id: str, due_ms: int) -> None:
    """It is to be tried again."""
    connection.execute(FAILED, {"id": hook_id, "due_ms": due_ms})
