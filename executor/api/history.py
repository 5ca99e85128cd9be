"""The history: what became of jobs that are over, and forgetting them."""

from collections.abc import Iterable

from aiohttp import web

from executor.api.body import flag, object_body, texts, whole_number
from executor.api.keys import JOB_ID, LEDGER
from executor.api.replies import json_text, text_reply
from executor.api.tokens import scope_of
from executor.api.wire_jobs import MOST_JOBS, NEWEST, entry_text
from executor.ledger import FullJob


async def history(request: web.Request) -> web.Response:
    """Jobs that ran, oldest first: the newest ones, or ``max_items`` from ``offset`` on."""
    offset = whole_number(request, "offset")
    limit = whole_number(request, "max_items", most=MOST_JOBS)
    if offset is not None and offset < 0:  # so ComfyUI says "the newest"
        offset = None
    limit = NEWEST if limit is None else limit
    jobs = await request.app[LEDGER].history(limit, offset, scope_of(request))
    return text_reply(_by_id(jobs))


async def history_of_job(request: web.Request) -> web.Response:
    """One job that is over, by its id; nothing, if there is none or it is not over."""
    request[JOB_ID] = job_id = request.match_info["job_id"]
    job = await request.app[LEDGER].job(job_id, scope_of(request))
    return text_reply(_by_id([job] if job and job.record.state.is_over else []))


async def change_history(request: web.Request) -> web.Response:
    """Forget jobs that are over: all, or those of a list. Their pictures stay."""
    body = await object_body(request)
    ids = texts(body, "delete")
    if flag(body, "clear"):
        await request.app[LEDGER].clear_history(scope_of(request))
    elif ids:
        await request.app[LEDGER].forget(ids, scope_of(request))
    return web.Response()


def _by_id(jobs: Iterable[FullJob]) -> str:
    return "{" + ",".join(f"{json_text(job.record.id)}:{entry_text(job)}" for job in jobs) + "}"


routes = [
    web.get("/history", history),
    web.post("/history", change_history),
    web.get("/history/{job_id}", history_of_job),
]
