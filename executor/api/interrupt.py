"""Stopping what runs, and giving memory back."""

import asyncio

from aiohttp import web

from executor.api import job_log
from executor.api.body import flag, object_body, text
from executor.api.keys import DISPATCHER, JOB_ID, LEDGER, NARRATOR
from executor.api.refusal import Refusal
from executor.api.tokens import scope_of
from executor.events import JobId
from executor.seats import Running

TRIES, BETWEEN_TRIES_S = 20, 0.01
"""A job is for a moment between the queue and its worker."""


async def interrupt(request: web.Request) -> web.Response:
    """Stop the job of an id if it runs; else what runs for the client that asks.

    Somebody who names neither stops the oldest job that runs, if all that run are one client's:
    nobody stops what may be another's.
    """
    body = await object_body(request)
    dispatcher, scope = request.app[DISPATCHER], scope_of(request)
    running = [job for job in dispatcher.running() if scope in (None, job.taken.owner)]
    prompt_id = text(body, "prompt_id")
    client_id = text(body, "client_id") or request.query.get("clientId")
    if prompt_id:
        request[JOB_ID] = prompt_id
        if any(job.id == prompt_id for job in running):
            await dispatcher.interrupt(prompt_id)
        return web.Response()
    for job in _meant(running, client_id):
        request[JOB_ID] = job.id
        await dispatcher.interrupt(job.id)
    return web.Response()


def _meant(running: list[Running], client_id: str | None) -> list[Running]:
    """Which jobs somebody means who names none. Raises Refusal if that may be others'."""
    if client_id:
        return [job for job in running if job.taken.client_id == client_id]
    if len({job.taken.client_id for job in running}) > 1:
        words = "jobs of several clients run; say which one to stop, by its prompt_id"
        raise Refusal(409, "ambiguous_interrupt", words)
    return running[:1]


async def free(request: web.Request) -> web.Response:
    """Let the workers forget models and results that no running job needs."""
    body = await object_body(request)
    is_wanted = [flag(body, "unload_models"), flag(body, "free_memory")]
    if any(is_wanted):
        request.app[DISPATCHER].free_memory()
    return web.Response()


async def stop(app: web.Application, job_id: JobId, owner: str | None = None) -> bool:
    """End an owner's job, or anybody's, whether it waits or runs.

    False if it is over, or was never there.
    """
    for _ in range(TRIES):
        if events := await app[LEDGER].cancel([job_id], owner):
            job_log.given_up(events)
            app[NARRATOR].given_up(events)
            return True
        record = await app[LEDGER].job_record(job_id, owner)
        if record is not None and await app[DISPATCHER].interrupt(job_id):
            return True
        if record is None or record.state.is_over:
            return False
        await asyncio.sleep(BETWEEN_TRIES_S)
    return False


routes = [web.post("/interrupt", interrupt), web.post("/free", free)]
