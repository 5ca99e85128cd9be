"""What happens to a job that runs: its events, the files that it leaves, and its end.

A result counts only under the attempt that runs now: a worker that was given up may still send,
but nothing of that is kept. Operations on the writer's connection; each returns None where the
job does not run under that attempt.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from executor.ledger import figures
from executor.ledger.records import EventKind, JobEvent, JobFile, State

# The fence. One row, by its unique id.
RUNNING = """
    SELECT job, id, client_id, owner, attempt FROM jobs
    WHERE id = :id AND attempt = :attempt AND state = 'running'
"""

ADD_EVENT = """
    INSERT INTO events (job, client_id, owner, attempt, kind, data, time_ms)
    VALUES (:job, :client_id, :owner, :attempt, :kind, :data, :time_ms)
"""

ADD_FILE = """
    INSERT INTO files (job, attempt, filename, subfolder, type, node_id, owner)
    VALUES (:job, :attempt, :filename, :subfolder, :type, :node_id, :owner)
"""

ADD_UPLOAD = """
    INSERT OR IGNORE INTO uploads (filename, subfolder, type, owner)
    VALUES (:filename, :subfolder, :type, :owner)
"""

# A job's few files, by `files_of_job`; pictures that are kept go before previews.
PREVIEW = """
    SELECT file FROM files WHERE job = :job AND attempt = :attempt
    ORDER BY type <> 'output', file LIMIT 1
"""

END = """
    UPDATE jobs SET state = :state, ended_ms = :now_ms, ended_seq = :seq,
        output_count = :output_count, preview = :preview
    WHERE job = :job
    RETURNING attempt, worker, created_ms, started_ms, checkpoints
"""

ADD_RESULT = "INSERT INTO results (job, error, outputs) VALUES (:job, :error, :outputs)"

Outputs = Mapping[str, Mapping[str, Sequence[Any]]]
"""By node and kind: ``{node_id: {"images": [{filename, subfolder, type}]}}``."""


def running(connection: sqlite3.Connection, job_id: str, attempt: int) -> sqlite3.Row | None:
    """The job, if it runs under this attempt."""
    return connection.execute(RUNNING, {"id": job_id, "attempt": attempt}).fetchone()


def record(
    connection: sqlite3.Connection,
    job_id: str,
    attempt: int,
    kind: EventKind,
    data: str,
    files: Sequence[JobFile],
    now_ms: int,
) -> JobEvent | None:
    """Keep an event of a running job, and the files that came with it."""
    job = running(connection, job_id, attempt)
    if job is None:
        return None
    for file in files:
        connection.execute(
            ADD_FILE,
            {
                "job": job["job"],
                "attempt": attempt,
                "filename": file.filename,
                "subfolder": file.subfolder,
                "type": file.type,
                "node_id": file.node_id,
                "owner": job["owner"],
            },
        )
    return _add_event(connection, job, kind, data, now_ms)


def finish(
    connection: sqlite3.Connection,
    job_id: str,
    attempt: int,
    state: State,
    outputs: Outputs,
    error: str | None,
    now_ms: int,
) -> JobEvent | None:
    """End a running job."""
    job = running(connection, job_id, attempt)
    if job is None:
        return None
    return end(connection, job, state, outputs, error, now_ms)


def end(
    connection: sqlite3.Connection,
    job: sqlite3.Row,
    state: State,
    outputs: Outputs,
    error: str | None,
    now_ms: int,
) -> JobEvent:
    """End a job that is not over; its row has ``job, id, client_id, owner, attempt``."""
    data = f'{{"state":"{state}","error":{error or "null"}}}'
    event = _add_event(connection, job, EventKind.ENDED, data, now_ms)
    files = {"job": job["job"], "attempt": job["attempt"]}
    preview = connection.execute(PREVIEW, files).fetchone() if outputs else None
    ended = connection.execute(
        END,
        {
            "job": job["job"],
            "state": state,
            "now_ms": now_ms,
            "seq": event.seq,
            "output_count": _count(outputs),
            "preview": preview["file"] if preview else None,
        },
    ).fetchone()
    figures.count(connection, ended, state, outputs, now_ms)
    if outputs or error is not None:
        text = json.dumps(outputs, separators=(",", ":"), allow_nan=False)
        connection.execute(ADD_RESULT, {"job": job["job"], "error": error, "outputs": text})
    return event


def add_upload(
    connection: sqlite3.Connection, filename: str, subfolder: str, type: str, owner: str
) -> None:
    """Note whose a file is that no job left."""
    values = {"filename": filename, "subfolder": subfolder, "type": type, "owner": owner}
    connection.execute(ADD_UPLOAD, values)


def _add_event(
    connection: sqlite3.Connection, job: sqlite3.Row, kind: EventKind, data: str, now_ms: int
) -> JobEvent:
    values: dict[str, Any] = {
        "client_id": job["client_id"],
        "owner": job["owner"],
        "attempt": job["attempt"],
        "kind": kind,
        "data": data,
        "time_ms": now_ms,
    }
    seq = connection.execute(ADD_EVENT, {"job": job["job"], **values}).lastrowid
    assert seq is not None, "an insertion has a row number"
    return JobEvent(seq=seq, job_id=job["id"], **values)


def _count(outputs: Outputs) -> int:
    """How many results there are; flags about them, as in ``"animated": [true]``, are none."""
    return sum(
        not isinstance(item, bool)
        for kinds in outputs.values()
        for items in kinds.values()
        for item in items
    )
