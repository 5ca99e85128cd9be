"""The one way into the queue: a job becomes its caller's, within its limits, and is on the disk."""

import asyncio
import json
from dataclasses import replace

from aiohttp import web

from executor.api import job_log
from executor.api.keys import CHECKING, DISPATCHER, FOLDERS, JOB_ID, LEDGER, NARRATOR
from executor.api.ownership import readable
from executor.api.submission import Admitted, Submission, admitted
from executor.api.tokens import caller_of, scope_of
from executor.api.verdict import refused
from executor.errors import Kind, Problem
from executor.ledger import Accepted, NewHook

MOST_AT_ONCE = 300
"""Nodes that are checked on the event loop, some 20 ms; more are checked in a thread, which
lets other requests through."""


async def checked(app: web.Application, asked: Submission) -> Admitted:
    """Check a workflow completely. Raises as ``admitted``."""
    if asked.size <= MOST_AT_ONCE:
        return admitted(asked, app[FOLDERS])
    async with app[CHECKING]:
        return await asyncio.to_thread(admitted, asked, app[FOLDERS])


async def queue_job(request: web.Request, job: Admitted, hook: NewHook | None = None) -> Accepted:
    """Queue a job, and have its end told if there is a hook (``webhooks.register``).

    Raises Refusal for one that reads files of others, and what ``Ledger.submit`` raises.
    """
    app, caller = request.app, caller_of(request)
    await _refuse_files_of_others(request, job)
    new = replace(job.new, owner=caller.owner, hook=hook)
    accepted = await app[LEDGER].submit(new, caller.token.queued_jobs if caller.token else None)
    request[JOB_ID] = accepted.id
    if not accepted.is_repeat:
        job_log.submitted(accepted.id, client_id=new.client_id, owner=new.owner)
        app[DISPATCHER].wake()
        app[NARRATOR].queue_changed()
    return accepted


async def _refuse_files_of_others(request: web.Request, job: Admitted) -> None:
    """Raise Refusal for those that the caller may not see, as if they were not there."""
    if scope_of(request) is None or not job.files:
        return
    problems: list[Problem] = []
    for place in {file.place for file in job.files}:
        files = [file for file in job.files if file.place == place]
        own = await readable(request, place, [file.name for file in files])
        problems += [
            Problem(
                Kind.NOT_IN_LIST,
                f"{file.input}: {place}: there is no file {file.name!r}",
                file.node_id,
                file.class_type,
                file.input,
                file.name,
            )
            for file in files
            if file.name not in own
        ]
    if problems:
        raise refused(problems, json.loads(job.new.prompt))
