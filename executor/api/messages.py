"""Events as ComfyUI's websocket clients know them: ``{"type": …, "data": …}``, ``type`` first.

Durable events are rendered from what the ledger keeps, so that what is told live, again, in the
history and by server-sent events is the same.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

from executor.api.replies import json_text
from executor.ledger import EventKind, JobEvent, State

_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4
_JPEG, _PNG = 1, 2


def message_text(type: str, data: Mapping[str, Any], seq: int | None = None) -> str:
    """A message as it goes over the wire; ``seq`` is the number of the event that it tells of."""
    message: dict[str, Any] = {"type": type, "data": data}
    if seq is not None:
        message["seq"] = seq
    return json_text(message)


def status(remaining: int, sid: str | None = None) -> str:
    """How many jobs are not over; the first of a socket also says the client's id."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": remaining}}}
    if sid is not None:
        data["sid"] = sid
    return message_text("status", data)


def executing(prompt_id: str, node_id: str | None) -> str:
    """The node that runs now, or None at the job's end."""
    data: dict[str, Any] = {"node": node_id, "prompt_id": prompt_id}
    if node_id is not None:
        data["display_node"] = node_id
    return message_text("executing", data)


def rendered(event: JobEvent) -> tuple[str, dict[str, Any]]:
    """The type and the data of a durable event's message."""
    data = json.loads(event.data)
    at: dict[str, Any] = {"prompt_id": event.job_id, "timestamp": event.time_ms}
    match event.kind:
        case EventKind.STARTED:
            return "execution_start", at
        case EventKind.CACHED:
            return "execution_cached", {"nodes": data["nodes"], **at}
        case EventKind.EXECUTED:
            return "executed", executed(event.job_id, data["node"], data["output"])
        case EventKind.FAILED:  # ours: ComfyUI's `execution_error` ends a job, this does not
            return "node_error", {"node": data["node"], "message": data["message"], **at}
        case EventKind.ENDED:
            return _ended(State(data["state"]), data.get("error") or {}, at)


def executed(
    prompt_id: str, node_id: str, output: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A node's results."""
    return {"node": node_id, "display_node": node_id, "output": output, "prompt_id": prompt_id}


def _ended(
    state: State, error: Mapping[str, Any], at: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    if state is State.SUCCEEDED:
        return "execution_success", dict(at)
    # Texts, where nothing is known: clients in typed languages take no null here.
    where = {
        "node_id": error.get("node_id") or "",
        "node_type": error.get("node_type") or "",
        "executed": error.get("executed") or [],
    }
    if state is State.CANCELLED:
        return "execution_interrupted", {**at, **where}
    return "execution_error", {**at, **where, **failure(error), "current_inputs": {}} | {
        "current_outputs": []
    }


def failure(error: Mapping[str, Any]) -> dict[str, Any]:
    """What went wrong, whoever said it."""
    return {
        "exception_message": error.get("exception_message") or error.get("message") or "",
        "exception_type": error.get("exception_type") or "",
        "traceback": error.get("traceback") or [],
    }


def node_state(
    prompt_id: str, node_id: str, state: str, value: float, most: float
) -> dict[str, Any]:
    """How a node stands, in ``progress_state``."""
    return {
        "value": value,
        "max": most,
        "state": state,
        "node_id": node_id,
        "prompt_id": prompt_id,
        "display_node_id": node_id,
        "parent_node_id": None,
        "real_node_id": node_id,
    }


def preview_frame(jpeg: bytes) -> bytes:
    """A preview for clients that asked for it with their job."""
    return struct.pack(">II", _PREVIEW, _JPEG) + jpeg


def picture_frame(png: bytes) -> bytes:
    """A result for the client that waits for it."""
    return struct.pack(">II", _PREVIEW, _PNG) + png


def frame_with_metadata(prompt_id: str, node_id: str, picture: bytes, mime_type: str) -> bytes:
    """A preview, or a result, for clients that said they understand where it belongs."""
    metadata = json_text(
        {
            "node_id": node_id,
            "prompt_id": prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
            "image_type": mime_type,
        }
    ).encode()
    return struct.pack(">II", _PREVIEW_WITH_METADATA, len(metadata)) + metadata + picture
