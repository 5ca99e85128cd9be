"""What was there when: workers that took jobs, files of models. A row for each span of time.

A row begins when something appears and is prolonged as long as it is seen, so that what a process
that was killed knew last is known. Where no row is, nothing was there, or no server ran.
"""

import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

MOST_SILENT_MS = 150_000
"""What was not seen for longer than this was not there meanwhile: a machine may have slept. Those
who look do so once a minute."""

Kind: TypeAlias = Literal["worker", "checkpoint"]

PROLONG = """
    UPDATE presence SET until_ms = max(until_ms, :now_ms),
        is_open = name IN (SELECT value FROM json_each(:names))
    WHERE kind = :kind AND is_open = 1 AND until_ms >= :now_ms - :silent_ms
"""

BREAK_OFF = """
    UPDATE presence SET is_open = 0
    WHERE kind = :kind AND is_open = 1 AND until_ms < :now_ms - :silent_ms
"""

BEGIN = """
    INSERT INTO presence (kind, name, since_ms, until_ms, is_open)
    SELECT :kind, value, :now_ms, :now_ms, 1 FROM json_each(:names)
    WHERE value NOT IN (SELECT name FROM presence WHERE kind = :kind AND is_open = 1)
    ON CONFLICT DO UPDATE SET is_open = 1
"""

END_ALL = "UPDATE presence SET is_open = 0 WHERE is_open = 1"

SPANS = """
    SELECT kind, name, since_ms, until_ms, is_open FROM presence
    WHERE until_ms > :after_ms OR is_open = 1 ORDER BY kind, name, since_ms
"""

FIRST = "SELECT kind, name, min(since_ms) AS since_ms FROM presence GROUP BY kind, name"

PRUNE = "DELETE FROM presence WHERE until_ms < :before_ms AND is_open = 0"


@dataclass(frozen=True, slots=True)
class Span:
    """Something was there, from a moment to another."""

    since_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Presence:
    """When something was there, as far as somebody asked, and when it was first seen at all."""

    kind: Kind
    name: str
    first_ms: int
    spans: tuple[Span, ...]


def see(connection: sqlite3.Connection, kind: Kind, names: Collection[str], now_ms: int) -> None:
    """These are all of a kind that are there now; what was there before is so until now."""
    values = {
        "kind": kind,
        "names": json.dumps([*names]),
        "now_ms": now_ms,
        "silent_ms": MOST_SILENT_MS,
    }
    for statement in (BREAK_OFF, PROLONG, BEGIN):
        connection.execute(statement, values)


def end_all(connection: sqlite3.Connection) -> None:
    """What is there is not known any more: what was seen last is all that is known."""
    connection.execute(END_ALL)


def presence(connection: sqlite3.Connection, after_ms: int, now_ms: int) -> tuple[Presence, ...]:
    """All that was ever there, with its spans after that moment; what still is there, until now."""
    found: dict[tuple[Kind, str], list[Span]] = {}
    for row in connection.execute(SPANS, {"after_ms": after_ms}):
        span = Span(row["since_ms"], now_ms if row["is_open"] else row["until_ms"])
        found.setdefault((row["kind"], row["name"]), []).append(span)
    return tuple(
        Presence(*key, row["since_ms"], tuple(found.get(key, ())))
        for row in connection.execute(FIRST)
        for key in [(row["kind"], row["name"])]
    )


def prune(connection: sqlite3.Connection, before_ms: int) -> None:
    """Delete what was gone by then."""
    connection.execute(PRUNE, {"before_ms": before_ms})
