"""The last lines of the log, for the frontend's panel of it."""

import logging
from collections import deque
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from executor.api.replies import json_reply
from executor.api.tokens import refuse_the_scoped
from executor.logs import TextLines

LOGGERS = ("executor", "weft")
MOST_LINES = 500
MOST_CHARACTERS = 2_000  # of a line


class LogEntries(logging.Handler):
    """Keeps the newest lines, whatever wrote them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(TextLines("%(levelname)s %(name)s: %(message)s"))
        self.lines: deque[dict[str, Any]] = deque(maxlen=MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat()
        self.lines.append({"t": when, "m": self.format(record)[:MOST_CHARACTERS] + "\n"})


LOG_ENTRIES: web.AppKey[LogEntries] = web.AppKey("log_entries", LogEntries)


async def keeping(app: web.Application) -> AsyncGenerator[None]:
    """Listen to Weft's own log as long as the application runs."""
    for name in LOGGERS:
        logging.getLogger(name).addHandler(app[LOG_ENTRIES])
    yield
    for name in LOGGERS:
        logging.getLogger(name).removeHandler(app[LOG_ENTRIES])


async def raw(request: web.Request) -> web.Response:
    """The lines, as the frontend's terminal takes them."""
    refuse_the_scoped(request, "the log's lines")
    lines = list(request.app[LOG_ENTRIES].lines)
    return json_reply({"entries": lines, "size": {"cols": 80, "rows": 50}})


async def subscribe(request: web.Request) -> web.Response:
    """Lines are not sent by websocket; the panel shows those that were there when it opened."""
    return web.Response()


routes = [web.get("/internal/logs/raw", raw), web.patch("/internal/logs/subscribe", subscribe)]
