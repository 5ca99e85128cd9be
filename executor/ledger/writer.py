"""The one thread that writes, with group commit.

It takes all operations that wait, runs them in one transaction, each in a savepoint so that one
that fails undoes nothing of its neighbours', commits once, and only then answers: what was
answered is on the disk, if it matters to any of the group that it is. A disk that syncs a hundred
times a second thus serves thousands of submissions. A commit that fails fails for everybody in it.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from executor.errors import LedgerError
from executor.ledger.schema import explained, transaction

T = TypeVar("T")

MAX_GROUP = 256
"""Operations in one commit. Far more than wait at any load that is met, it bounds what one bad
commit takes with it."""


@dataclass(slots=True)
class _Asked:
    """An operation, and where its answer goes."""

    run: Callable[[sqlite3.Connection], Any]
    answer: "asyncio.Future[Any]"
    is_synced: bool
    result: Any = None
    error: Exception | None = None


class Writer:
    """Runs operations on a connection that is its own from now on."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[_Asked | None] = SimpleQueue()
        self._is_open = self._is_syncing = True
        self._thread = Thread(target=self._work, name="ledger writer", daemon=True)
        self._thread.start()

    async def do(
        self, operation: Callable[[sqlite3.Connection], T], *, is_synced: bool = True
    ) -> T:
        """What the operation gives, once it is committed.

        Without ``is_synced`` a power cut may still undo it, until something later is synced.
        Raises what it raises, and LedgerError if nothing could be written. A caller that is
        cancelled before its turn comes has asked for nothing.
        """
        if not self._is_open:
            raise LedgerError(f"ledger {self._path}: it is closed")
        asked = _Asked(operation, self._loop.create_future(), is_synced)
        self._waiting.put(asked)
        with explained(self._path):
            return await asked.answer

    async def close(self) -> None:
        """Do what was asked for until now, then end."""
        self._is_open = False
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            group, is_last = self._group(first)
            try:
                self._sync(any(asked.is_synced for asked in group))
                with transaction(self._connection):
                    for asked in group:
                        self._run(asked)
            except Exception as error:  # nothing of the group was kept, and each of it hears why
                for asked in group:
                    asked.error = asked.error or error
            self._loop.call_soon_threadsafe(_answer, group)
            if is_last:
                return

    def _sync(self, is_synced: bool) -> None:
        """Have the next commits wait for the disk, or not."""
        if is_synced != self._is_syncing:
            level = "FULL" if is_synced else "NORMAL"
            self._connection.execute(f"PRAGMA synchronous = {level}")
            self._is_syncing = is_synced

    def _group(self, first: _Asked) -> tuple[list[_Asked], bool]:
        """What waits right now, and whether the writer was told to end behind it."""
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                asked = self._waiting.get_nowait()
            except Empty:
                break
            if asked is None:
                return group, True
            group.append(asked)
        return group, False

    def _run(self, asked: _Asked) -> None:
        """Run one operation; what it wrote stays if it ends well."""
        if asked.answer.cancelled():
            return
        self._connection.execute("SAVEPOINT operation")
        try:
            asked.result = asked.run(self._connection)
        except Exception as error:  # whatever it is, it belongs to the one who asked
            if not self._connection.in_transaction:
                raise  # a full disk undid the whole group
            asked.error = error
            self._connection.execute("ROLLBACK TO operation")
        self._connection.execute("RELEASE operation")


def _answer(group: list[_Asked]) -> None:
    for asked in group:
        if not asked.answer.cancelled():
            if asked.error is not None:
                asked.answer.set_exception(asked.error)
            else:
                asked.answer.set_result(asked.result)
