"""What requests take and answers hold, where a route and its handler do not say it.

Schemas are JSON Schema, as OpenAPI 3.1 has it. What is not described here takes no parameters but
those in its path, and its answer is told by its handler's own words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from executor.api.catalogue_fields import MOST_COMPARED, MOST_HOURS, SORTS
from executor.api.jobs import MOST_CANCELLED, STATUS
from executor.api.wire_jobs import MOST_JOBS, NEWEST

Schema: TypeAlias = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "array", "items": TEXT}
ANY_OBJECT: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """A schema of ``SCHEMAS``."""
    return {"$ref": f"#/components/schemas/{name}"}


def a_list(of: Schema) -> Schema:
    """A list of such values."""
    return {"type": "array", "items": of}


def an_object(*required: str, **properties: Schema) -> Schema:
    """An object; without names of its own that must be there, all may be missing."""
    described: dict[str, Any] = {"type": "object", "properties": properties}
    return described | ({"required": list(required)} if required else {})


def all_of(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return an_object(*properties, **properties)


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something in the address behind the question mark, or a header."""

    name: str
    about: str
    schema: Schema = field(default_factory=lambda: TEXT)
    where: str = "query"
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """What one route takes and answers."""

    takes: tuple[Parameter, ...] = ()
    body: Schema | None = None
    body_type: str = "application/json"
    answer: Schema | None = None
    answer_type: str = "application/json"
    statuses: tuple[int, ...] = (200,)
    """With which it answers so."""


_OFFSET = Parameter("offset", "How many to pass over.", WHOLE)
_MAX_ITEMS = Parameter("max_items", f"How many: {NEWEST} by default, {MOST_JOBS:,} at most.", WHOLE)
_NUMBER: Schema = {"type": "number"}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_MAYBE_WHOLE: Schema = {"type": ["integer", "null"]}
_MAYBE_NUMBER: Schema = {"type": ["number", "null"]}
_COUNTS = ("succeeded", "failed", "cancelled", "timed_out", "pictures")
_MAYBE_TEXTS = (
    *("family", "family_title", "description", "best_use", "trigger_phrase", "author", "licence"),
    *("dtype", "sha256"),
)
_CLIENT_ID = Parameter("clientId", "Whose request it is, as the websocket has it.")

SCHEMAS: Mapping[str, Schema] = {
    "Workflow": {
        "type": "object",
        "description": "Nodes by id.",
        "additionalProperties": {"$ref": "#/components/schemas/Node"},
        "minProperties": 1,
    },
    "Node": an_object(
        *("class_type", "inputs"),
        class_type={"type": "string", "description": "A name that /object_info has."},
        inputs={
            "type": "object",
            "description": "Constants, or links: [id of a node, number of its output].",
        },
        _meta={"type": "object", "description": "The title that the editor gave it."},
    ),
    "Submission": an_object(
        "prompt",
        prompt={
            "description": "A workflow, or the file of ComfyUI's editor.",
            "anyOf": [ref("Workflow"), ANY_OBJECT],
        },
        client_id={"type": "string", "description": "Whose websockets are told of the job."},
        prompt_id={"type": "string", "description": "The id that the job is to have."},
        number={"type": "number", "description": "Its place in the queue: lower goes first."},
        front={"type": "boolean", "description": "Whether it goes before all that wait."},
        partial_execution_targets={
            "type": ["array", "null"],
            "items": TEXT,
            "description": "The nodes whose outputs are wanted; by default all that leave any.",
        },
        webhook={"type": "string", "description": "A URL that is told of the job's end."},
        extra_data={
            "type": "object",
            "description": "Kept with the job; what is in extra_pnginfo goes into its pictures.",
        },
    ),
    "Submitted": all_of(prompt_id=TEXT, number={"type": "number"}, node_errors=ANY_OBJECT),
    "Error": all_of(
        error=all_of(type=TEXT, message=TEXT, details=TEXT, extra_info=ANY_OBJECT),
        node_errors={"type": "object", "description": "What is wrong, by the id of the node."},
    ),
    "QueueItem": {
        "type": "array",
        "prefixItems": [{"type": "number"}, TEXT, ref("Workflow"), ANY_OBJECT, TEXTS],
        "description": "Number, id, workflow, extra data, nodes whose outputs are wanted.",
    },
    "HistoryEntry": all_of(
        prompt=ref("QueueItem"),
        outputs={"type": "object", "description": "By node: lists of files by their kind."},
        status=all_of(
            status_str={"enum": ["success", "error"]}, completed=FLAG, messages=a_list({})
        ),
        meta=ANY_OBJECT,
    ),
    "Figures": an_object(
        *("requests", "success_rate", "waiting_ms", "running_ms"),
        **dict.fromkeys(("since_ms", "requests", *_COUNTS), WHOLE),
        **dict.fromkeys(("success_rate", "pictures_per_second"), _MAYBE_NUMBER),
        waiting_ms=all_of(p50=_MAYBE_NUMBER, p95=_MAYBE_NUMBER, p99=_MAYBE_NUMBER),
        running_ms=all_of(p50=_MAYBE_NUMBER, p95=_MAYBE_NUMBER, p99=_MAYBE_NUMBER),
    ),
    "Job": an_object(
        *("id", "status", "create_time", "priority", "outputs_count"),
        id=TEXT,
        status={"enum": list(dict.fromkeys(STATUS.values()))},
        create_time={"type": "integer", "description": "Milliseconds since 1970, as all times."},
        execution_start_time=WHOLE,
        execution_end_time=WHOLE,
        priority={"type": "number"},
        outputs_count=WHOLE,
        workflow_id=TEXT,
        preview_output=ANY_OBJECT,
        execution_error=ANY_OBJECT,
    ),
}
"""What several routes have."""

_HISTORY: Schema = {"type": "object", "additionalProperties": ref("HistoryEntry")}
_NAME = all_of(name=TEXT, subfolder=TEXT, type={"enum": ["input", "output", "temp"]})


def _form(**more: Schema) -> Schema:
    """What an upload sends."""
    return an_object(
        "image",
        image={"type": "string", "contentMediaType": "application/octet-stream"},
        subfolder=TEXT,
        type={"enum": ["input", "output", "temp"]},
        **more,
    )


DESCRIPTIONS: Mapping[tuple[str, str], Description] = {
    ("POST", "/prompt"): Description(
        (
            _CLIENT_ID,
            Parameter(
                "Idempotency-Key",
                "The same again queues nothing, and gets the same answer.",
                where="header",
            ),
        ),
        body=ref("Submission"),
        answer=ref("Submitted"),
    ),
    ("GET", "/prompt"): Description(answer=all_of(exec_info=all_of(queue_remaining=WHOLE))),
    ("GET", "/queue"): Description(
        (_OFFSET, _MAX_ITEMS),
        answer=all_of(
            queue_running=a_list(ref("QueueItem")), queue_pending=a_list(ref("QueueItem"))
        ),
    ),
    ("POST", "/queue"): Description(body=an_object(clear=FLAG, delete=TEXTS)),
    ("GET", "/history"): Description((_OFFSET, _MAX_ITEMS), answer=_HISTORY),
    ("GET", "/history/{job_id}"): Description(answer=_HISTORY),
    ("POST", "/history"): Description(body=an_object(clear=FLAG, delete=TEXTS)),
    ("POST", "/interrupt"): Description(
        (_CLIENT_ID,), body=an_object(prompt_id=TEXT, client_id=TEXT)
    ),
    ("POST", "/free"): Description(body=an_object(unload_models=FLAG, free_memory=FLAG)),
    ("GET", "/jobs"): Description(
        (
            Parameter("status", "Only those in these states, separated by commas."),
            Parameter("limit", _MAX_ITEMS.about, WHOLE),
            _OFFSET,
            Parameter("sort_by", "", {"enum": ["created_at", "execution_duration"]}),
            Parameter("sort_order", "", {"enum": ["desc", "asc"]}),
        ),
        answer=all_of(
            jobs=a_list(ref("Job")),
            pagination=all_of(offset=WHOLE, limit=WHOLE, total=WHOLE, has_more=FLAG),
        ),
    ),
    ("GET", "/jobs/{job_id}"): Description(answer=ref("Job")),
    ("POST", "/jobs/{job_id}/cancel"): Description(answer=all_of(cancelled=FLAG)),
    ("POST", "/jobs/cancel"): Description(
        body=all_of(job_ids={**TEXTS, "maxItems": MOST_CANCELLED}), answer=all_of(cancelled=FLAG)
    ),
    ("GET", "/jobs/{job_id}/events"): Description(
        (
            Parameter("since", "The number of the last event that is known.", WHOLE),
            Parameter("Last-Event-ID", "The same, as browsers send it.", WHOLE, where="header"),
        ),
        answer=TEXT,
        answer_type="text/event-stream",
    ),
    ("GET", "/ws"): Description(
        (_CLIENT_ID, Parameter("since", "First, all events above this number.", WHOLE)),
        statuses=(101,),
    ),
    ("GET", "/object_info"): Description(
        answer={"type": "object", "additionalProperties": ANY_OBJECT}
    ),
    ("GET", "/object_info/{name}"): Description(answer=ANY_OBJECT),
    ("GET", "/view"): Description(
        (
            Parameter("filename", "The file, as outputs name it.", is_required=True),
            Parameter("subfolder", "The folder that it is in."),
            Parameter("type", "By default output.", {"enum": ["output", "input", "temp"]}),
            Parameter("preview", "A smaller one: webp or jpeg, and its quality, like webp;90."),
            Parameter("channel", "", {"enum": ["rgba", "rgb", "a"]}),
        ),
        answer={"type": "string", "contentMediaType": "application/octet-stream"},
        answer_type="image/*",
    ),
    ("POST", "/upload/image"): Description(
        body=_form(overwrite={"enum": ["true", "1", "false"]}),
        body_type="multipart/form-data",
        answer=_NAME,
    ),
    ("POST", "/upload/mask"): Description(
        body=_form(original_ref=TEXT),
        body_type="multipart/form-data",
        answer=_NAME,
    ),
    ("POST", "/workflow"): Description(
        body={"description": "A workflow, or a PNG that carries one."},
        body_type="application/octet-stream",
        answer=all_of(
            prompt=ref("Workflow"),
            workflow={"type": ["object", "null"]},
            problems=TEXTS,
            node_errors=ANY_OBJECT,
        ),
    ),
    ("GET", "/models"): Description(answer=TEXTS),
    ("GET", "/models/{folder}"): Description(answer=TEXTS),
    ("GET", "/embeddings"): Description(answer=TEXTS),
    ("GET", "/view_metadata/{folder}"): Description(
        (Parameter("filename", "The model file.", is_required=True),), answer=ANY_OBJECT
    ),
    ("GET", "/system_stats"): Description(
        answer=all_of(system=ANY_OBJECT, devices=a_list(ANY_OBJECT))
    ),
    ("GET", "/features"): Description(answer=ANY_OBJECT),
    ("GET", "/plugins"): Description(
        answer=a_list(all_of(name=TEXT, path=TEXT, nodes=TEXTS, error={"type": ["string", "null"]}))
    ),
    ("GET", "/examples"): Description(
        answer=a_list(all_of(name=TEXT, title=TEXT, has_picture=FLAG))
    ),
    ("GET", "/userdata"): Description(
        (
            Parameter("dir", "The folder.", is_required=True),
            Parameter("recurse", "Its folders' files, too.", FLAG),
            Parameter("full_info", "With sizes and times.", FLAG),
            Parameter("split", "Each name also in its parts.", FLAG),
        ),
        answer=a_list({}),
    ),
    ("POST", "/userdata/{file}"): Description(
        (Parameter("overwrite", "False keeps a file that is there.", FLAG),),
        body={},
        body_type="application/octet-stream",
    ),
    ("POST", "/userdata/{file}/move/{dest}"): Description(
        (Parameter("overwrite", "False keeps a file that is there.", FLAG),)
    ),
    ("DELETE", "/userdata/{file}"): Description(statuses=(204,)),
    ("GET", "/settings"): Description(answer=ANY_OBJECT),
    ("POST", "/settings"): Description(body=ANY_OBJECT),
    ("POST", "/settings/{id}"): Description(body={}),
    ("GET", "/catalogue"): Description(
        (
            Parameter("family", "Only those of a family, like sd1."),
            Parameter("task", "", {"enum": ["text_to_image", "image_to_image", "inpaint"]}),
            Parameter("available", "Only those that can be used now, or only others.", FLAG),
            Parameter("name", "Only those with this in their name or title."),
            Parameter("max_price", "Of a picture; leaves out those without a price.", _NUMBER),
            Parameter("sort", f"One of {', '.join(SORTS)}; the other way with - in front."),
        ),
        answer=all_of(
            models=a_list(
                an_object(
                    *("name", "checkpoint", "tasks", "availability", "providers", "windows"),
                    **dict.fromkeys(("name", "title", "checkpoint"), TEXT),
                    **dict.fromkeys(("is_default",), FLAG),
                    **dict.fromkeys(_MAYBE_TEXTS, _MAYBE_TEXT),
                    **dict.fromkeys(("requests", *_COUNTS), WHOLE),
                    **dict.fromkeys(("parameters", "size_bytes", "last_used_ms"), _MAYBE_WHOLE),
                    **dict.fromkeys(("price", "success_rate"), _MAYBE_NUMBER),
                    size={"type": ["object", "null"], "description": "Of a picture by default."},
                    tasks=TEXTS,
                    cost={
                        "type": ["object", "null"],
                        "description": "Of all pictures so far; and beside the cheapest model.",
                    },
                    availability=ANY_OBJECT,
                    providers=a_list(ANY_OBJECT),
                    windows={"type": "object", "additionalProperties": ref("Figures")},
                )
            ),
            families=TEXTS,
            tasks=TEXTS,
            total=WHOLE,
        ),
    ),
    ("GET", "/catalogue/{name}/history"): Description(
        (Parameter("hours", f"How many, {MOST_HOURS:,} at most; 24 by default.", WHOLE),),
        answer=all_of(
            **dict.fromkeys(("name", "checkpoint"), TEXT),
            **dict.fromkeys(("since_ms", "until_ms", "width_ms"), WHOLE),
            buckets=a_list(ref("Figures")),
            first_seen_ms=_MAYBE_WHOLE,
            available=a_list(a_list(WHOLE)),
        ),
    ),
    ("POST", "/catalogue/compare"): Description(
        body=an_object(
            *("models", "prompt"),
            models={**TEXTS, "maxItems": MOST_COMPARED},
            **dict.fromkeys(("prompt", "negative_prompt"), TEXT),
            **dict.fromkeys(("seed", "width", "height", "steps"), WHOLE),
            guidance_scale=_NUMBER,
        ),
        answer=all_of(
            prompt_id=TEXT,
            number=_NUMBER,
            seed=WHOLE,
            models=a_list(all_of(name=TEXT, outputs=TEXTS)),
        ),
    ),
    ("GET", "/catalogue/compare/{job_id}"): Description(
        answer=all_of(
            **dict.fromkeys(("prompt_id", "prompt"), TEXT),
            status={"enum": list(dict.fromkeys(STATUS.values()))},
            error=_MAYBE_TEXT,
            seed=WHOLE,
            **dict.fromkeys(("started_ms", "ended_ms"), _MAYBE_WHOLE),
            models=a_list(all_of(name=TEXT, pictures=a_list(ANY_OBJECT), after_ms=_MAYBE_WHOLE)),
        ),
    ),
    ("GET", "/livez"): Description(answer=all_of(status={"const": "ok"})),
    ("GET", "/readyz"): Description(
        answer=all_of(
            status={"enum": ["ok", "unavailable"]},
            ledger=TEXT,
            workers={"type": "object", "additionalProperties": {"enum": ["ok", "not ready"]}},
        ),
        statuses=(200, 503),
    ),
    ("GET", "/login"): Description(
        (Parameter("next", "The page to go on to."),), answer=TEXT, answer_type="text/html"
    ),
    ("POST", "/login"): Description(
        body=an_object("token", token=TEXT, next=TEXT),
        body_type="application/x-www-form-urlencoded",
        statuses=(303,),
    ),
    ("POST", "/logout"): Description(statuses=(303,)),
    ("GET", "/files/{id}"): Description(
        (
            Parameter("of", "Which content it is of.", is_required=True),
            Parameter("exp", "Until when, in seconds since 1970.", WHOLE, is_required=True),
            Parameter("sig", "The server's signature.", is_required=True),
        ),
        answer={"type": "string", "contentMediaType": "application/octet-stream"},
        answer_type="image/*",
    ),
    ("GET", "/metrics"): Description(answer=TEXT, answer_type="text/plain"),
    ("GET", "/openapi.json"): Description(answer=ANY_OBJECT),
    ("GET", "/docs/api"): Description(answer=TEXT, answer_type="text/html"),
}
"""By method and path."""
