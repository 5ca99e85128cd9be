"""Submitting a workflow, and asking how many are still to be done."""

from aiohttp import web

from executor.api import webhooks
from executor.api.body import object_body, text
from executor.api.keys import LEDGER
from executor.api.queueing import checked, queue_job
from executor.api.replies import json_reply
from executor.api.submission import submission
from executor.api.tokens import scope_of
from executor.api.wire_jobs import number_on_wire


async def submit(request: web.Request) -> web.Response:
    """Queue a workflow; it is on the disk when the answer says so."""
    body = await object_body(request)
    client_id = request.query.get("clientId")
    asked = submission(body, client_id, request.headers.get("Idempotency-Key"))
    job = await checked(request.app, asked)
    webhook = text(body, "webhook")
    hook = webhooks.register(request, webhook, "job") if webhook else None
    accepted = await queue_job(request, job, hook)
    return json_reply(
        {
            "prompt_id": accepted.id,
            "number": number_on_wire(accepted.number),
            "node_errors": job.node_errors,
        }
    )


async def remaining(request: web.Request) -> web.Response:
    """How many jobs are not over, the running ones too."""
    counts = await request.app[LEDGER].counts(scope_of(request))
    return json_reply({"exec_info": {"queue_remaining": counts.remaining}})


routes = [web.post("/prompt", submit), web.get("/prompt", remaining)]
