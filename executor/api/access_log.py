"""A line for each request: what, how it was answered, how long it took, of which job.

What is no HTTP never becomes a request; it gets a line too, without aiohttp's traceback.
"""

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TypeAlias

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from executor.api.keys import JOB_ID
from executor.logs import about

OFTEN = frozenset({"/livez", "/readyz", "/metrics"})
"""What supervisors ask every few seconds; it would fill the log, and is counted anyway."""

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Write the line."""
    began = perf_counter()
    response = await handler(request)
    is_often = request.path.removeprefix("/api") in OFTEN
    level = logging.DEBUG if is_often else logging.INFO
    if log.isEnabledFor(level):
        log.log(
            level,
            "%s %s %d %.1f ms",
            request.method,
            request.rel_url.raw_path[:200],  # without the query, where keys may be
            response.status,
            (perf_counter() - began) * 1000,
            extra=about(job=request.get(JOB_ID, "")),
        )
    return response


def without_traceback(record: logging.LogRecord) -> bool:
    """A filter of aiohttp's log: who sends nonsense must not be able to fill it with tracebacks."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.levelno, record.levelname = logging.INFO, "INFO"
        said = str(error).partition("\n")[0]
        record.msg, record.args = f"{record.getMessage()}: {ascii(said)[:200]}", ()
        record.exc_info = None
    return True


logging.getLogger("aiohttp.server").addFilter(without_traceback)
