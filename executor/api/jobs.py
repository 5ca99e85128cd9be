"""Jobs in all states, as the newest frontend lists them."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from aiohttp import web

from executor.api.body import object_body, texts, whole_number
from executor.api.interrupt import stop
from executor.api.keys import JOB_ID, LEDGER
from executor.api.messages import failure
from executor.api.refusal import Refusal
from executor.api.replies import json_reply, json_text, text_reply
from executor.api.signing import signed
from executor.api.tokens import scope_of
from executor.api.wire_jobs import MOST_JOBS, NEWEST, execution_status, number_on_wire
from executor.errors import PathError, nearest
from executor.ledger import FullJob, JobRecord, State

STATUS: Mapping[State, str] = {
    State.QUEUED: "pending",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.TIMED_OUT: "failed",
    State.CANCELLED: "cancelled",
}
"""The frontend's names for a job's states."""

MOST_CANCELLED = 1_000
"""In one request; each that runs is ended in its own commit."""


async def jobs(request: web.Request) -> web.Response:
    """A page of jobs in some states, newest first, and how many there are in all."""
    offset = max(0, whole_number(request, "offset") or 0)
    limit = whole_number(request, "limit", most=MOST_JOBS)
    limit = NEWEST if limit is None else max(0, limit)
    sort, is_newest_first = _order(request)
    page = await request.app[LEDGER].jobs(
        _states(request.query.get("status", "")),
        limit=limit,
        offset=offset,
        owner=scope_of(request),
        sort=sort,
        is_newest_first=is_newest_first,
    )
    pagination = {
        "offset": offset,
        "limit": limit,
        "total": page.total,
        "has_more": offset + len(page.jobs) < page.total,
    }
    return json_reply({"jobs": [_shown(job) for job in page.jobs], "pagination": pagination})


async def job(request: web.Request) -> web.Response:
    """One job with its results and its workflow."""
    request[JOB_ID] = job_id = request.match_info["job_id"]
    found = await request.app[LEDGER].job(job_id, scope_of(request))
    if found is None:
        raise Refusal(404, "job_not_found", f"there is no job {job_id[:200]!r}")
    small = _shown(found.record)
    if found.record.state.is_over:
        small["execution_status"] = execution_status(found)
    workflow = f'{{"prompt":{found.body.prompt},"extra_data":{found.body.extra_data}}}'
    return text_reply(f'{json_text(small)[:-1]},"outputs":{found.outputs},"workflow":{workflow}}}')


async def cancel(request: web.Request) -> web.Response:
    """End a job, whether it waits or runs."""
    request[JOB_ID] = job_id = request.match_info["job_id"]
    return json_reply({"cancelled": await stop(request.app, job_id, scope_of(request))})


async def cancel_several(request: web.Request) -> web.Response:
    """End several jobs: whether any of them could be."""
    ids = texts(await object_body(request), "job_ids")
    if len(ids) > MOST_CANCELLED:
        words = f"job_ids has {len(ids):,} ids; {MOST_CANCELLED:,} at a time is the most"
        raise Refusal(400, "bad_request", words)
    scope = scope_of(request)
    ended = [await stop(request.app, job_id, scope) for job_id in dict.fromkeys(ids)]
    return json_reply({"cancelled": any(ended)})


def _order(request: web.Request) -> tuple[Literal["created", "duration"], bool]:
    sorts: Mapping[str, Literal["created", "duration"]] = {
        "created_at": "created",
        "execution_duration": "duration",
    }
    sort, order = (
        request.query.get("sort_by", "created_at"),
        request.query.get("sort_order", "desc"),
    )
    if sort not in sorts:
        words = f"sort_by must be one of {', '.join(sorts)}, got {sort[:40]!r}"
        raise Refusal(400, "bad_request", words)
    if order not in ("asc", "desc"):
        raise Refusal(400, "bad_request", f"sort_order must be asc or desc, got {order[:40]!r}")
    return sorts[sort], order == "desc"


def _states(listed: str) -> tuple[State, ...]:
    """The states of a list of the frontend's names; all, if it names none."""
    names = {name.strip() for name in listed.split(",") if name.strip()}
    for name in sorted(names - set(STATUS.values())):
        offered = ", ".join(dict.fromkeys(STATUS.values()))
        words = f"there is no status {name[:40]!r}{nearest(name[:40], STATUS.values())}"
        raise Refusal(400, "bad_request", f"{words}; it is one of {offered}")
    return tuple(state for state, name in STATUS.items() if not names or name in names)


async def ended_text(app: web.Application, job: FullJob, base_url: str) -> str:
    """A job that is over, for a webhook: as it is in a list, with the addresses of its files."""
    outputs: dict[str, dict[str, list[Any]]] = json.loads(job.outputs)
    named = [f for kinds in outputs.values() for files in kinds.values() for f in files]
    files = [f for f in named if isinstance(f, dict) and "filename" in f]
    for file in files:
        with suppress(PathError):  # somebody has deleted it
            name, subfolder, place = file["filename"], file["subfolder"], file["type"]
            file["url"] = signed(app, base_url, name, subfolder, place)
    return json_text({**_shown(job.record), "outputs": outputs})


def _shown(record: JobRecord) -> dict[str, Any]:
    """A job in a list; what is not known is left out."""
    shown: dict[str, Any] = {
        "id": record.id,
        "status": STATUS[record.state],
        "create_time": record.created_ms,
        "priority": number_on_wire(record.number),
        "execution_start_time": record.started_ms,
        "execution_end_time": record.ended_ms,
        "outputs_count": record.output_count,
        "workflow_id": record.workflow_id,
    }
    if record.preview is not None:
        shown["preview_output"] = {
            "filename": record.preview.filename,
            "subfolder": record.preview.subfolder,
            "type": record.preview.type,
            "nodeId": record.preview.node_id,
            "mediaType": "images",
        }
    if record.error is not None:
        error = json.loads(record.error)
        shown["execution_error"] = {
            "prompt_id": record.id,
            "node_id": error.get("node_id") or "",
            "node_type": error.get("node_type") or "",
            **failure(error),
            "timestamp": record.ended_ms,
        }
    return {name: value for name, value in shown.items() if value is not None}


routes = [
    web.get("/jobs", jobs),
    web.post("/jobs/cancel", cancel_several),
    web.get("/jobs/{job_id}", job),
    web.post("/jobs/{job_id}/cancel", cancel),
]
