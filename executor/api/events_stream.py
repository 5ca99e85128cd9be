"""A job's durable events as server-sent events, from its start, or from a number, to its end.

The messages are the websocket's. A browser's ``EventSource`` that lost the connection asks again
with ``Last-Event-ID`` and misses nothing; when the job is over and all is told, the answer is
204, which ends its asking.
"""

import asyncio
from contextlib import suppress

from aiohttp import web

from executor.api.body import whole_number
from executor.api.keys import BELLS, IS_ANSWERING, JOB_ID, LEDGER
from executor.api.messages import rendered
from executor.api.refusal import Refusal
from executor.api.replies import json_text
from executor.api.tokens import is_still_known, scope_of
from executor.ledger import EventKind, JobEvent

KEEP_ALIVE_S = 15.0
"""Proxies cut connections on which nothing comes for a minute; a job that was given up in the
queue rings no bell and is found then, too."""


async def events(request: web.Request) -> web.StreamResponse:
    """Stream a job's events."""
    app = request.app
    request[JOB_ID] = job_id = request.match_info["job_id"]
    since = _since(request)
    with app[BELLS].listening(job_id) as bell:
        record = await app[LEDGER].job_record(job_id, scope_of(request))
        if record is None:
            raise Refusal(404, "job_not_found", f"there is no job {job_id[:200]!r}")
        told = await app[LEDGER].events_of_job(job_id, since)
        if record.state.is_over and not told:
            return web.Response(status=204)
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # nginx would collect before it passes on
            }
        )
        request[IS_ANSWERING] = True
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write("".join(map(_text, told)).encode() or b": waiting\n\n")
                if app[BELLS].is_closing or any(e.kind is EventKind.ENDED for e in told):
                    break
                since = told[-1].seq if told else since
                with suppress(TimeoutError):
                    await asyncio.wait_for(bell.wait(), KEEP_ALIVE_S)
                bell.clear()
                told = await app[LEDGER].events_of_job(job_id, since)
                if not told and await app[LEDGER].job_record(job_id) is None:
                    break  # it was deleted meanwhile
                if not is_still_known(request):
                    break
            await response.write_eof()
    return response


def _text(event: JobEvent) -> str:
    type, data = rendered(event)
    return f"id: {event.seq}\nevent: {type}\ndata: {json_text(data)}\n\n"


def _since(request: web.Request) -> int:
    """The number that the client has seen last."""
    last = request.headers.get("Last-Event-ID")
    if last is None:
        return max(0, whole_number(request, "since") or 0)
    if not (last.isascii() and last.isdigit() and len(last) < 20):
        words = f"Last-Event-ID must be the number of an event, got {last[:40]!r}"
        raise Refusal(400, "bad_request", words)
    return int(last)


routes = [web.get("/jobs/{job_id}/events", events)]
