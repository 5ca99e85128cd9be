"""Threads that read, so that a long list keeps neither the event loop nor the writer waiting."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from executor.errors import LedgerError
from executor.ledger.schema import explained, open_to_read

T = TypeVar("T")

THREADS = 2
"""One for a long list, one for what is short; Python runs no more at a time anyhow."""


class Reader:
    """Runs queries, each on one state of the ledger: what was committed when it began."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_open = True
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for _ in range(THREADS):
            self._idle.put(open_to_read(path))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ledger reader")

    async def ask(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What the query gives. Raises LedgerError if the file cannot be read."""
        if not self._is_open:
            raise LedgerError(f"ledger {self._path}: it is closed")
        with explained(self._path):
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)

    def _run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._idle.get()
        try:
            connection.execute("BEGIN")
            try:
                return query(connection)
            finally:
                connection.execute("ROLLBACK")
        finally:
            self._idle.put(connection)

    async def close(self) -> None:
        """Answer what was asked for until now, then end."""
        self._is_open = False
        await asyncio.to_thread(self._threads.shutdown)
        for _ in range(THREADS):
            self._idle.get().close()
