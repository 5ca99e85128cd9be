"""The file: its tables by version, and how it is opened.

What is large and never changes (prompts, results) lies apart from ``jobs``, so that lists and
changes of state touch small rows only. A schema that was released is never edited: the next
version is a further entry of ``MIGRATIONS``.
"""

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from executor.errors import LedgerError

APPLICATION_ID = 0x57454654  # "WEFT": tells our files from other programs' databases

OLDEST_SQLITE = (3, 37, 0)  # STRICT tables; RETURNING and merged UNION ALL are older

BUSY_TIMEOUT_S = 5.0  # somebody may look at the file with another program

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # `job` is the order of submission and never given out twice, as `number` follows from it.
        """
        CREATE TABLE jobs (
            job INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            number REAL NOT NULL,
            state TEXT NOT NULL CHECK (state IN
                ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'timed_out')),
            client_id TEXT NOT NULL,
            owner TEXT NOT NULL,
            idempotency_key TEXT,
            workflow_id TEXT,
            attempt INTEGER NOT NULL DEFAULT 0,
            deaths INTEGER NOT NULL DEFAULT 0,
            worker TEXT NOT NULL DEFAULT '',
            created_ms INTEGER NOT NULL,
            started_ms INTEGER,
            ended_ms INTEGER,
            expires_ms INTEGER,
            timeout_ms INTEGER,
            output_count INTEGER NOT NULL DEFAULT 0,
            preview INTEGER,
            ended_seq INTEGER,
            CHECK ((ended_seq IS NULL) = (state IN ('queued', 'running')))
        ) STRICT
        """,
        "CREATE INDEX by_state ON jobs (state)",
        "CREATE INDEX queue ON jobs (number) WHERE state = 'queued'",
        "CREATE INDEX expiring ON jobs (expires_ms)"
        " WHERE state = 'queued' AND expires_ms IS NOT NULL",
        "CREATE UNIQUE INDEX by_key ON jobs (owner, idempotency_key)"
        " WHERE idempotency_key IS NOT NULL",
        # Those that ran apart from those cancelled in the queue: the history shows the former only.
        "CREATE INDEX ended ON jobs (attempt > 0, ended_seq) WHERE ended_seq IS NOT NULL",
        """
        CREATE TABLE bodies (
            job INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
            prompt TEXT NOT NULL CHECK (json_valid(prompt)),
            extra_data TEXT NOT NULL CHECK (json_valid(extra_data)),
            targets TEXT NOT NULL
        ) STRICT
        """,
        # The error first: lists read it, and would read through the outputs to get at it.
        """
        CREATE TABLE results (
            job INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
            error TEXT,
            outputs TEXT NOT NULL
        ) STRICT
        """,
        # The client and the owner again: who asks for all since N walks an index of just those.
        """
        CREATE TABLE events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
            client_id TEXT NOT NULL,
            owner TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            kind TEXT NOT NULL,
            data TEXT NOT NULL CHECK (json_valid(data)),
            time_ms INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX events_of_job ON events (job)",
        "CREATE INDEX events_of_client ON events (client_id)",
        "CREATE INDEX events_of_owner ON events (owner)",
        """
        CREATE TABLE files (
            file INTEGER PRIMARY KEY,
            job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
            attempt INTEGER NOT NULL,
            filename TEXT NOT NULL,
            subfolder TEXT NOT NULL,
            type TEXT NOT NULL,
            node_id TEXT NOT NULL,
            owner TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX files_of_job ON files (job)",
        "CREATE INDEX files_by_name ON files (filename, subfolder, type, owner)",
        # Kept by triggers, so that a count costs the same with ten jobs and with a million.
        """
        CREATE TABLE counts (
            owner TEXT NOT NULL,
            state TEXT NOT NULL,
            jobs INTEGER NOT NULL,
            PRIMARY KEY (owner, state)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TRIGGER job_added AFTER INSERT ON jobs BEGIN
            INSERT INTO counts VALUES (new.owner, new.state, 1)
                ON CONFLICT DO UPDATE SET jobs = jobs + 1;
        END
        """,
        """
        CREATE TRIGGER job_moved AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
            UPDATE counts SET jobs = jobs - 1 WHERE owner = old.owner AND state = old.state;
            INSERT INTO counts VALUES (new.owner, new.state, 1)
                ON CONFLICT DO UPDATE SET jobs = jobs + 1;
        END
        """,
        """
        CREATE TRIGGER job_removed AFTER DELETE ON jobs BEGIN
            UPDATE counts SET jobs = jobs - 1 WHERE owner = old.owner AND state = old.state;
        END
        """,
    ),
    (
        # One owner's jobs in the orders of everybody's; named after those (`queries.narrowed`).
        "CREATE INDEX by_state_of_owner ON jobs (owner, state)",
        "CREATE INDEX queue_of_owner ON jobs (owner, number) WHERE state = 'queued'",
        "CREATE INDEX ended_of_owner ON jobs (owner, attempt > 0, ended_seq)"
        " WHERE ended_seq IS NOT NULL",
        # Whose are files that no job left.
        """
        CREATE TABLE uploads (
            filename TEXT NOT NULL,
            subfolder TEXT NOT NULL,
            type TEXT NOT NULL,
            owner TEXT NOT NULL,
            PRIMARY KEY (filename, subfolder, type, owner)
        ) STRICT, WITHOUT ROWID
        """,
        # What is still to be told of jobs' ends, and when: NULL before the end.
        """
        CREATE TABLE hooks (
            hook INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
            owner TEXT NOT NULL,
            url TEXT NOT NULL,
            host TEXT NOT NULL,
            renderer TEXT NOT NULL,
            base_url TEXT NOT NULL,
            tries INTEGER NOT NULL DEFAULT 0,
            due_ms INTEGER
        ) STRICT
        """,
        "CREATE INDEX hooks_of_job ON hooks (job)",
        "CREATE INDEX hooks_due ON hooks (due_ms) WHERE due_ms IS NOT NULL",
        # However a job ends, one by one or many at once. Each end has an id of its own, so that
        # what becomes of an earlier one, of a job that was tried again, changes nothing.
        """
        CREATE TRIGGER job_ended AFTER UPDATE OF ended_seq ON jobs
            WHEN old.ended_seq IS NULL AND new.ended_seq IS NOT NULL BEGIN
            UPDATE hooks SET id = lower(hex(randomblob(16))), tries = 0, due_ms = new.ended_ms
                WHERE job = new.job;
        END
        """,
    ),
    (
        # What a job's workflow loads (`records.Checkpoints`), for whoever counts its end.
        "ALTER TABLE jobs ADD COLUMN checkpoints TEXT NOT NULL DEFAULT ''",
        "CREATE TABLE checkpoints (checkpoint INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)"
        " STRICT",
        # Of all times, by worker; `last_ms` is 0 where no job has run.
        """
        CREATE TABLE providers (
            checkpoint INTEGER NOT NULL,
            worker TEXT NOT NULL,
            succeeded INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            cancelled INTEGER NOT NULL,
            timed_out INTEGER NOT NULL,
            pictures INTEGER NOT NULL,
            last_ms INTEGER NOT NULL,
            PRIMARY KEY (checkpoint, worker)
        ) STRICT, WITHOUT ROWID
        """,
        # By minute, hour and day; one checkpoint's lie together, in their order.
        """
        CREATE TABLE figures (
            checkpoint INTEGER NOT NULL,
            span_ms INTEGER NOT NULL,
            began_ms INTEGER NOT NULL,
            succeeded INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            cancelled INTEGER NOT NULL,
            timed_out INTEGER NOT NULL,
            pictures INTEGER NOT NULL,
            timed_pictures INTEGER NOT NULL,
            running_ms INTEGER NOT NULL,
            PRIMARY KEY (checkpoint, span_ms, began_ms)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE durations (
            checkpoint INTEGER NOT NULL,
            span_ms INTEGER NOT NULL,
            began_ms INTEGER NOT NULL,
            stage TEXT NOT NULL CHECK (stage IN ('waiting', 'running')),
            bin INTEGER NOT NULL,
            jobs INTEGER NOT NULL,
            PRIMARY KEY (checkpoint, span_ms, began_ms, stage, bin)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE presence (
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            since_ms INTEGER NOT NULL,
            until_ms INTEGER NOT NULL,
            is_open INTEGER NOT NULL,
            PRIMARY KEY (kind, name, since_ms)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX presence_open ON presence (kind) WHERE is_open = 1",
    ),
)


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Turn SQLite's errors into LedgerError, which names the file and what would do."""
    try:
        yield
    except sqlite3.Error as error:
        advice = {
            "SQLITE_FULL": "; make room on its disk",
            "SQLITE_CORRUPT": "; put it aside, and a new one is begun at the next start",
            "SQLITE_NOTADB": "; put it aside, and a new one is begun at the next start",
            "SQLITE_BUSY": "; another program holds it, close that",
        }.get(getattr(error, "sqlite_errorname", ""), "")
        raise LedgerError(f"ledger {path}: {error}{advice}") from error


@contextmanager
def held(path: Path) -> Generator[None]:
    """Keep the file for this process, until the end of the block or of the process.

    The lock is SQLite's own, on an empty file beside the ledger: it ends with the process however
    that ends, child processes do not inherit it, and it works on every system that SQLite does.
    """
    lock = sqlite3.connect(path.with_name(path.name + ".lock"), timeout=0, isolation_level=None)
    try:
        try:
            lock.execute("PRAGMA journal_mode = OFF")  # nothing is ever written to it
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY":
                raise
            raise LedgerError(
                f"ledger {path}: another Weft server holds it; stop that one, or give this one a "
                "base directory of its own"
            ) from error
        yield
    finally:
        lock.close()


def open_to_write(path: Path) -> sqlite3.Connection:
    """The connection that writes, with the schema brought up to date.

    Raises LedgerError, or sqlite3.Error where SQLite has the better word.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise LedgerError(f"SQLite is {sqlite3.sqlite_version}, but must be {oldest} or newer")
    if not path.exists():  # prompts are nobody else's business
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    connection = _connect(path, "rw")
    try:
        _refuse_foreign(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(
            "PRAGMA journal_size_limit = 67108864"
        )  # after a burst, shrink to 64 MiB
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write."""
    return _connect(path, "ro")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,  # transactions are begun where they are meant
        check_same_thread=False,  # made here, then used by one thread at a time
    )
    connection.row_factory = sqlite3.Row
    return connection


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Raise LedgerError for another program's database, or one of a later version."""
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if _pragma(connection, "application_id") != APPLICATION_ID and not is_empty:
        raise LedgerError(
            f"ledger {path}: this is a database of another program; move it, or choose another "
            "base directory"
        )
    version = _pragma(connection, "user_version")
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"ledger {path}: a newer Weft wrote it (schema {version}, this one knows "
            f"{len(MIGRATIONS)}); update Weft"
        )


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date: all the way, or not at all."""
    with transaction(connection):
        for version in range(_pragma(connection, "user_version"), len(MIGRATIONS)):
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """Commit what the block wrote, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
