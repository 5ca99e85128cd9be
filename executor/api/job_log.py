"""A line in the log for each job that is submitted, begins to run, and ends."""

import logging
from collections.abc import AsyncGenerator, Iterable

from aiohttp import web

from executor.api.keys import DISPATCHER
from executor.dispatch import Happening
from executor.events import Ended, Started
from executor.ledger import JobEvent
from executor.logs import about
from executor.seats import Running

log = logging.getLogger(__name__)


async def watching(app: web.Application) -> AsyncGenerator[None]:
    """Log what becomes of jobs, as long as the application runs."""
    app[DISPATCHER].watchers.append(_hear)
    yield
    app[DISPATCHER].watchers.remove(_hear)


def submitted(job_id: str, *, client_id: str, owner: str) -> None:
    """A job is in the queue."""
    log.info("job submitted", extra=about(job=job_id, client=client_id, owner=owner))


def given_up(events: Iterable[JobEvent]) -> None:
    """Jobs that waited in the queue will not run: somebody cancelled them, or nobody waits."""
    for event in events:
        log.info("job given up in the queue", extra=about(job=event.job_id))


def cleared(count: int) -> None:
    """All that waited in the queue was cancelled at once."""
    log.info("the queue was cleared", extra=about(jobs=count))


def _hear(job: Running, happening: Happening, kept: JobEvent | None) -> None:
    """Something happened to a job that a worker has."""
    match happening:
        case Started():
            waited_s = (job.taken.started_ms - job.taken.created_ms) / 1000
            attempt = job.taken.attempt
            extra = about(job=job.id, attempt=attempt, waited_seconds=waited_s)
            log.info("job started", extra=extra)
        case Ended(outcome=outcome) if kept is not None:
            seconds = (kept.time_ms - job.taken.started_ms) / 1000
            error = job.error or {}
            extra = about(
                job=job.id,
                outcome=outcome.value,
                seconds=seconds,
                error=error.get("exception_type") or "",
                node=error.get("node_type") or "",
            )
            log.info("job ended", extra=extra)
        case _:
            pass
