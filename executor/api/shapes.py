"""How an error looks on the wire: as the clients of the route that was asked expect it."""

from collections.abc import Callable
from typing import Any, TypeAlias

from aiohttp import web

from executor.api.refusal import Refusal
from executor.api.replies import json_reply

Shape: TypeAlias = Callable[[Refusal], web.Response]


def reply_to(request: web.Request, refusal: Refusal) -> web.Response:
    """The answer to a request that is refused."""
    return shape_of(request.path)(refusal)


def shape_of(path: str) -> Shape:
    """How errors look below a path: ComfyUI's way, unless it is another face's."""
    parts = path.removeprefix("/api").split("/")[1:]
    match parts:
        case ["v1", "images" | "models", *_]:
            return openai_error
        case ["v1" | "v2", _, *_] | [
            "run" | "runsync" | "status" | "stream" | "cancel" | "retry" | "purge-queue" | "health",
            *_,
        ]:
            return runpod_error
        case _:
            return Refusal.reply


def openai_error(refusal: Refusal) -> web.Response:
    """OpenAI's: ``{"error": {message, type, param, code}}``."""
    types = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    message = refusal.message
    if refusal.details and refusal.details != message:
        message = f"{message}: {refusal.details}"
    error: dict[str, Any] = {
        "message": message,
        "type": types.get(
            refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error"
        ),
        "param": refusal.param,
        "code": refusal.type,
    }
    return json_reply({"error": error}, status=refusal.status, headers=refusal.headers)


def runpod_error(refusal: Refusal) -> web.Response:
    """RunPod's: ``{"error": message}``."""
    words = [refusal.message]
    if refusal.details and refusal.details != refusal.message:
        words.append(refusal.details)
    return json_reply({"error": ": ".join(words)}, status=refusal.status, headers=refusal.headers)
