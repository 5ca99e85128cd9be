"""Models side by side: the same prompt and seed for each, as one workflow and so as one job.

Each model has a branch of its own in it, as if it were alone, and its picture carries the seed.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from executor.api.body import object_body
from executor.api.catalogue_fields import Comparison
from executor.api.jobs import STATUS
from executor.api.keys import LEDGER, MODELS, SETTINGS
from executor.api.picture_jobs import filtered, request_data, seeds_from, submit, why
from executor.api.refusal import Refusal
from executor.api.replies import json_reply
from executor.api.tokens import scope_of
from executor.api.wire_jobs import number_on_wire
from executor.errors import InputError, nearest
from executor.ledger import EventKind, JobEvent
from executor.node import Node
from executor.public_models import PublicModel, Task
from executor.templates import side_by_side

FACE = "comparison"


async def compare(request: web.Request) -> web.Response:
    """Queue one picture of each of several models.

    ``outputs`` names the nodes that keep a model's picture.
    """
    app = request.app
    asked = Comparison.read(await object_body(request))
    models = await asyncio.to_thread(app[MODELS].all)
    (seed,) = seeds_from(asked.seed, 1)
    prompts = branches(asked, models, seed)
    outputs = [
        {"name": name, "outputs": [f"{place}:{node_id}" for node_id in keeping(prompt)]}
        for place, (name, prompt) in enumerate(prompts.items())
    ]
    workflow = filtered(side_by_side(prompts.values()), app[SETTINGS].output_filter)
    said = {"prompt": asked.prompt, "seed": seed, "models": outputs}
    accepted = await submit(request, workflow, extra_data=request_data(FACE, said))
    return json_reply(
        {
            "prompt_id": accepted.id,
            "number": number_on_wire(accepted.number),
            "seed": seed,
            "models": outputs,
        }
    )


async def compared(request: web.Request) -> web.Response:
    """How a comparison stands: each model's pictures, and how long after the start they were there.

    The models share a worker, so one that comes first may have kept the next one waiting.
    """
    ledger, job_id = request.app[LEDGER], request.match_info["job_id"]
    job = await ledger.job(job_id, scope_of(request))
    said = json.loads(job.body.extra_data).get("request") if job else None
    if job is None or not said or said.get("face") != FACE:
        words = f"there is no comparison {job_id[:100]!r}"
        raise Refusal(404, "job_not_found", words)
    record = job.record
    events = [
        event
        for event in await ledger.events_of_job(job_id)
        if event.kind is EventKind.EXECUTED and event.attempt == record.attempt
    ]
    return json_reply(
        {
            "prompt_id": record.id,
            "status": STATUS[record.state],
            "error": why(record.error) if record.error else None,
            "prompt": said["prompt"],
            "seed": said["seed"],
            "started_ms": record.started_ms,
            "ended_ms": record.ended_ms,
            "models": [
                {"name": one["name"], **_made(one["outputs"], events, record.started_ms)}
                for one in said["models"]
            ],
        }
    )


def branches(
    asked: Comparison, models: Mapping[str, PublicModel], seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Each model's workflow. Raises Refusal, which names all that some model cannot do."""
    faults: list[str] = []
    prompts: dict[str, dict[str, dict[str, Any]]] = {}
    for name in dict.fromkeys(asked.models):
        if name not in models:
            faults.append(f"there is no model {name[:100]!r}{nearest(name[:100], models)}")
            continue
        try:
            values = {**asked.values(), "seed": seed}
            prompts[name] = models[name].workflow(Task.TEXT_TO_IMAGE, values)
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise Refusal(400, "invalid_value", f"models: {'; '.join(faults)}", param="models")
    return prompts


def keeping(prompt: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The nodes of a workflow that leave something behind."""
    return [
        node_id
        for node_id, node in prompt.items()
        if (cls := Node.registry.get(node["class_type"])) is not None and cls.is_output
    ]


def _made(outputs: list[str], events: list[JobEvent], started_ms: int | None) -> dict[str, Any]:
    """The pictures that these nodes left, and when they were all there."""
    pictures: list[dict[str, str]] = []
    after_ms = None
    for event in events:
        told = json.loads(event.data)
        if told["node"] in outputs and started_ms is not None:
            pictures += told["output"].get("images", [])
            after_ms = event.time_ms - started_ms
    return {"pictures": pictures, "after_ms": after_ms}


routes = [
    web.post("/catalogue/compare", compare),
    web.get("/catalogue/compare/{job_id}", compared),
]
