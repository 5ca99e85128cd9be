"""A RunPod-style job API: submit, wait, poll, stream, cancel, retry.

An endpoint is the public name of a model; without one, the usual model is meant. A job's ``input``
is translated into a workflow of that model, or is a workflow itself.
"""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import uuid4

from aiohttp import web

from executor.api.body import object_body, whole_number
from executor.api.fetching import fetch_picture
from executor.api.interrupt import stop
from executor.api.keys import BELLS, DISPATCHER, JOB_ID, LEDGER, NARRATOR, SETTINGS
from executor.api.picture_jobs import (
    Wish,
    ended,
    keep_mask,
    keep_picture,
    made,
    named_model,
    request_data,
    seeds_from,
    submit,
    why,
)
from executor.api.refusal import Refusal
from executor.api.replies import json_reply, json_text
from executor.api.runpod_fields import (
    SIDES,
    JobFields,
    PictureInput,
    WorkflowInput,
    with_scheduler,
)
from executor.api.signing import base_url_of, signed
from executor.api.tokens import caller_of, scope_of
from executor.api.webhooks import register
from executor.ledger import FullJob, JobRecord, State
from executor.public_models import PublicModel, Task

FACE = "runpod"
WAIT_MS, MOST_WAIT_MS = 90_000, 300_000  # of /runsync
LOW_PRIORITY = 2.0**40  # a number behind all that are given out in turn
MOST_STREAMED = 10_000  # jobs of which it is known how much was streamed
_LONG = 512  # characters of a field beyond which the echo leaves out the rest

STATUS: Mapping[State, str] = {
    State.QUEUED: "IN_QUEUE",
    State.RUNNING: "IN_PROGRESS",
    State.SUCCEEDED: "COMPLETED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELLED",
    State.TIMED_OUT: "TIMED_OUT",
}


async def run(request: web.Request) -> web.Response:
    """Queue a job."""
    job_id = await _submit(request, f"{uuid4()}-u1")
    return json_reply({"id": job_id, "status": STATUS[State.QUEUED]})


async def runsync(request: web.Request) -> web.Response:
    """Queue a job and wait for its end, for ``wait`` milliseconds at most."""
    wait_ms = whole_number(request, "wait", most=MOST_WAIT_MS)
    job_id = await _submit(request, f"sync-{uuid4()}-u1")
    record = await ended(request.app, job_id, (wait_ms or WAIT_MS) / 1000)
    return json_reply(await _shown(request, record))


async def status(request: web.Request) -> web.Response:
    """How a job stands, and what came of it."""
    return json_reply(await _shown(request, await _own(request)))


async def stream(request: web.Request) -> web.Response:
    """What a job has put out since this was last asked."""
    record = await _own(request)
    job = await request.app[LEDGER].job(record.id)
    pictures = await _pictures(request.app, job, base_url_of(request)) if job else []
    streamed = request.app[STREAMED]
    told = streamed.pop(record.id, 0)
    streamed[record.id] = len(pictures)
    while len(streamed) > MOST_STREAMED:
        del streamed[next(iter(streamed))]  # the one that was asked for longest ago
    items = [{"output": picture} for picture in pictures[told:]]
    return json_reply({"status": STATUS[record.state], "stream": items})


async def cancel(request: web.Request) -> web.Response:
    """End a job, whether it waits or runs."""
    record = await _own(request)
    await stop(request.app, record.id, scope_of(request))
    now = await request.app[LEDGER].job_record(record.id)
    return json_reply({"id": record.id, "status": STATUS[(now or record).state]})


async def retry(request: web.Request) -> web.Response:
    """Queue a job again that failed or took too long."""
    record = await _own(request)
    token = caller_of(request).token
    if not await request.app[LEDGER].retry(record.id, token.queued_jobs if token else None):
        words = f"only jobs that failed or timed out are tried again; it is {STATUS[record.state]}"
        raise Refusal(400, "bad_request", words)
    request.app[DISPATCHER].wake()
    request.app[NARRATOR].queue_changed()
    return json_reply({"id": record.id, "status": STATUS[State.QUEUED]})


async def purge_queue(request: web.Request) -> web.Response:
    """Cancel all jobs of the endpoint that wait."""
    endpoint = request.match_info.get("endpoint")
    mark = None if endpoint is None else f"{FACE}:{endpoint}"
    removed = await request.app[LEDGER].clear_queue(scope_of(request), workflow_id=mark)
    request.app[BELLS].ring_all()
    request.app[NARRATOR].queue_changed()
    return json_reply({"removed": removed, "status": "completed"})


async def health(request: web.Request) -> web.Response:
    """How many jobs and workers there are in which state."""
    counts = await request.app[LEDGER].counts(scope_of(request))
    seats = request.app[DISPATCHER].seats
    running = sum(bool(seat.running) for seat in seats)
    ready = sum(seat.ready is not None for seat in seats)
    jobs = {
        "completed": counts.of.get(State.SUCCEEDED, 0),
        "failed": counts.of.get(State.FAILED, 0) + counts.of.get(State.TIMED_OUT, 0),
        "inProgress": counts.running,
        "inQueue": counts.queued,
        "retried": sum(seat.restarts for seat in seats),
    }
    workers = {
        "idle": ready - running,
        "initializing": len(seats) - ready,
        "ready": ready,
        "running": running,
        "throttled": 0,
        "unhealthy": 0,
    }
    return json_reply({"jobs": jobs, "workers": workers})


async def _submit(request: web.Request, job_id: str) -> str:
    """Queue the job that a request describes: its id. Raises Refusal."""
    fields = JobFields.read(await object_body(request))
    endpoint = request.match_info.get("endpoint")
    model = await named_model(request.app, endpoint)
    hook = register(request, fields.webhook, FACE) if fields.webhook else None
    extra_data = request_data(FACE, {"endpoint": model.name, "input": _echo(fields.input)})
    match fields.input:
        case WorkflowInput() as given:
            prompt = await _with_pictures(request, given)
        case PictureInput() as given:
            prompt = await _workflow(request, model, given)
    accepted = await submit(
        request,
        prompt,
        extra_data=extra_data,
        job_id=job_id,
        workflow_id=f"{FACE}:{model.name}",
        number=LOW_PRIORITY if fields.policy.lowPriority else None,
        ttl_ms=fields.policy.ttl,
        timeout_ms=fields.policy.executionTimeout,
        hook=hook,
    )
    return accepted.id


async def _with_pictures(request: web.Request, given: WorkflowInput) -> dict[str, Any]:
    """The workflow with the names under which the pictures that came with it are kept."""
    kept: dict[str, str] = {}
    for at, picture in enumerate(given.images):
        what = f"input.images.{at}"
        content = await fetch_picture(request.app, _as_data_url(picture.image), what)
        kept[picture.name] = await keep_picture(request, content, what)

    def renamed(node: Any) -> Any:
        match node:
            case {"inputs": dict(inputs)}:
                named = cast("dict[str, Any]", inputs).items()
                return {
                    **node,
                    "inputs": {n: kept.get(v, v) if isinstance(v, str) else v for n, v in named},
                }
            case _:
                return node

    return {node_id: renamed(node) for node_id, node in given.workflow.items()}


async def _workflow(
    request: web.Request, model: PublicModel, given: PictureInput
) -> dict[str, Any]:
    """The workflow that makes the pictures. Raises Refusal for what the model cannot do."""
    width, height = given.width or model.resolution, given.height or model.resolution
    _check_sides(model, given)
    values: dict[str, Any] = {
        "prompt": given.prompt,
        "negative_prompt": given.negative_prompt,
        "width": width,
        "height": height,
        "guidance_scale": given.guidance_scale,
        "steps": given.num_inference_steps,
    }
    task = Task.TEXT_TO_IMAGE
    if given.init_image is not None:
        task = Task.IMAGE_TO_IMAGE
        content = await fetch_picture(request.app, given.init_image, "input.init_image")
        values["image"] = await keep_picture(request, content, "input.init_image")
        values["strength"] = given.prompt_strength
    if given.mask is not None:
        if given.init_image is None:
            words = "input.mask: it says what of input.init_image is repainted, which is missing"
            raise Refusal(400, "bad_request", words)
        task = Task.INPAINT
        content = await fetch_picture(request.app, given.mask, "input.mask")
        values["mask"] = await keep_mask(request, content, "input.mask", repainted="black")
    if task not in model.templates:
        words = f"the model {model.name} cannot do {task}; it can do {', '.join(model.templates)}"
        raise Refusal(400, "bad_request", words)
    wish = Wish(model, task, values, seeds_from(given.seed, given.num_outputs))
    return with_scheduler(wish.workflow(request.app[SETTINGS].output_filter), given.scheduler)


def _check_sides(model: PublicModel, given: PictureInput) -> None:
    """Models of small pictures make the documented sizes only."""
    if model.resolution > max(SIDES):
        return
    for name, side in (("width", given.width), ("height", given.height)):
        if side is not None and side not in SIDES:
            words = f"input.{name}: it must be one of {', '.join(map(str, SIDES))}, got {side}"
            raise Refusal(400, "bad_request", words)


def _echo(given: PictureInput | WorkflowInput) -> Mapping[str, Any]:
    """A job's input as it is told again: without whole pictures and workflows."""
    if isinstance(given, WorkflowInput):
        return {"workflow": f"{len(given.workflow)} nodes"}
    said = given.model_dump(exclude_none=True)
    return {
        name: value if not isinstance(value, str) or len(value) <= _LONG else value[:_LONG] + "…"
        for name, value in said.items()
    }


def _as_data_url(text: str) -> str:
    return text if text.startswith("data:") else f"data:;base64,{text}"


async def _own(request: web.Request) -> JobRecord:
    """The job that a request names, if it is the caller's. Raises Refusal."""
    request[JOB_ID] = job_id = request.match_info["job_id"]
    record = await request.app[LEDGER].job_record(job_id, scope_of(request))
    if record is None:
        raise Refusal(404, "job_not_found", f"there is no job {job_id[:200]!r}")
    return record


async def _shown(request: web.Request, record: JobRecord) -> dict[str, Any]:
    """A job as its status tells it."""
    job = await request.app[LEDGER].job(record.id)
    if job is None:  # deleted meanwhile
        return {"id": record.id, "status": STATUS[record.state]}
    return await status_of(request.app, job, base_url_of(request))


async def status_of(app: web.Application, job: FullJob, base_url: str) -> dict[str, Any]:
    """How a job stands, for a client that finds this server there."""
    record = job.record
    shown: dict[str, Any] = {"id": record.id, "status": STATUS[record.state]}
    if record.started_ms is not None:
        shown["delayTime"] = record.started_ms - record.created_ms
        if record.ended_ms is not None:
            shown["executionTime"] = record.ended_ms - record.started_ms
        shown["gpu"] = _device(app, record.worker)
    shown["input"] = _said(job).get("input", {})
    if record.state is State.SUCCEEDED:
        shown["output"] = await _output(app, job, base_url)
    if record.state in (State.FAILED, State.TIMED_OUT):
        shown["error"] = why(record.error)
    return shown


async def told(app: web.Application, job: FullJob, base_url: str) -> str:
    """What a webhook says of a job's end."""
    return json_text(await status_of(app, job, base_url))


def _said(job: FullJob) -> Mapping[str, Any]:
    """What was kept of the request."""
    return json.loads(job.body.extra_data).get("request", {})


def _device(app: web.Application, worker: str) -> str:
    """What a worker computes on, by its name."""
    seats = (seat for seat in app[DISPATCHER].seats if seat.name == worker and seat.ready)
    return next((seat.ready.device.name for seat in seats if seat.ready), worker)


async def _output(app: web.Application, job: FullJob, base_url: str) -> Any:
    """What a job has put out: pictures with their seeds, or the files of its own workflow."""
    if "workflow" not in _said(job).get("input", {}):
        return await _pictures(app, job, base_url)
    files: list[dict[str, str]] = []
    for picture in made(app, job):
        content = await asyncio.to_thread(picture.path.read_bytes)
        data = base64.b64encode(content).decode()
        files.append({"filename": picture.filename, "type": "base64", "data": data})
    return {"images": files}


async def _pictures(
    app: web.Application, job: FullJob, base_url: str
) -> Sequence[Mapping[str, Any]]:
    """The pictures of a job, by their addresses."""

    def listed() -> Sequence[Mapping[str, Any]]:
        return [
            {
                "image": signed(app, base_url, picture.filename, picture.subfolder, picture.type),
                "seed": picture.seed,
            }
            for picture in made(app, job)
        ]

    return await asyncio.to_thread(listed)


STREAMED: web.AppKey[dict[str, int]] = web.AppKey("streamed", dict)
"""How many of its pictures each job has told by ``/stream``; a restart tells them again."""

_HANDLERS = (
    ("POST", "/run", run),
    ("POST", "/runsync", runsync),
    ("GET", "/status/{job_id}", status),
    ("POST", "/status/{job_id}", status),
    ("GET", "/stream/{job_id}", stream),
    ("POST", "/stream/{job_id}", stream),
    ("POST", "/cancel/{job_id}", cancel),
    ("POST", "/retry/{job_id}", retry),
    ("POST", "/purge-queue", purge_queue),
    ("GET", "/health", health),
)
RESERVED = "(?!images/|models/)"
"""What OpenAI's API has in the place of an endpoint."""

routes = [
    web.route(method, prefix + path, handler)
    for prefix in ("", "/v1/{endpoint:" + RESERVED + "[^/]+}", "/v2/{endpoint:[^/]+}")
    for method, path, handler in _HANDLERS
]
