"""A line for each request: what, how it was answered, how long it took, of which job."""

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TypeAlias

from aiohttp import web

from executor.api.keys import JOB_ID
from executor.logs import about

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Write the line."""
    began = perf_counter()
    response = await handler(request)
    if log.isEnabledFor(logging.INFO):
        log.info(
            "%s %s %d %.1f ms",
            request.method,
            request.rel_url.raw_path[:200],  # without the query, where keys may be
            response.status,
            (perf_counter() - began) * 1000,
            extra=about(job=request.get(JOB_ID, "")),
        )
    return response
