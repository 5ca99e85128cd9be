"""What a worker process writes to its stdout and stderr, as lines of our log.

Nodes of packs print, libraries warn, and a process that dies says why. The pipe is our own and not
asyncio's: with those, waiting for a process is also waiting for all that it started.
"""

import asyncio
import logging
import os
import re
from typing import BinaryIO, cast

from executor.logs import about

log = logging.getLogger(__name__)

MOST_LINE_BYTES = 2_000
"""What is longer becomes several lines."""

LAST_WORDS_S = 1.0
"""For what was written before the end; what the worker started may hold the pipe for ever."""


class WorkerOutput:
    """A pipe, and whoever reads from it."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._lines = asyncio.StreamReader()
        self._pipe: asyncio.BaseTransport | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> BinaryIO:
        """Begin to read; gives the end to write to, which is to be closed here."""
        ours, theirs = os.pipe()
        self._pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._lines), os.fdopen(ours, "rb", buffering=0)
        )
        self._task = asyncio.create_task(self._log())
        return cast(BinaryIO, os.fdopen(theirs, "wb", buffering=0))

    async def close(self) -> None:
        """Log what is left of it."""
        assert self._pipe is not None, "it was opened"
        assert self._task is not None, "it was opened"
        await asyncio.wait([self._task], timeout=LAST_WORDS_S)
        self._task.cancel()
        self._pipe.close()

    async def _log(self) -> None:
        rest = b""
        while chunk := await self._lines.read(2**16):
            # A progress bar returns to the beginning of its line for each state.
            *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
            if len(rest) > MOST_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._log_line(line)
        self._log_line(rest)

    def _log_line(self, line: bytes) -> None:
        for start in range(0, len(line), MOST_LINE_BYTES):
            text = line[start : start + MOST_LINE_BYTES].decode(errors="replace").rstrip()
            if text:
                log.warning("%s", text, extra=about(worker=self._worker))
