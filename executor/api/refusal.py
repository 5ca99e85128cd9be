"""Requests that are answered with an error.

``refusal_of`` is the one place where exceptions become answers. Their shape is ComfyUI's,
``{"error": {type, message, details, extra_info}, "node_errors": {}}``, unless ``shapes`` has
another for a route.
"""

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from executor.api.replies import json_reply
from executor.errors import (
    FileError,
    JobExists,
    JobRefused,
    LedgerError,
    NetworkError,
    PathError,
    PictureError,
    QueueFull,
    WeftError,
)

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 100 * 2**20
"""Of any request; what the websocket announces to clients as ``max_upload_size``."""


QUEUE_FULL_S = 5
"""After which it is worth trying again: a picture takes about so long."""


class Refusal(WeftError):
    """A request that is not done: the status and type of the answer, and the words."""

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        *,
        details: str = "",
        node_errors: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.type, self.message, self.details = status, type, message, details
        self.node_errors, self.headers = node_errors or {}, headers or {}
        self.param = param  # the field of the request that is wrong, where one is

    def reply(self) -> web.Response:
        """The answer."""
        error = {
            "type": self.type,
            "message": self.message,
            "details": self.details,
            "extra_info": {},
        }
        body = {"error": error, "node_errors": self.node_errors}
        return json_reply(body, status=self.status, headers=self.headers)


def refusal_of(error: Exception, request: web.Request) -> Refusal:
    """What to answer to a request that ended in an exception."""
    what = f"{request.method} {request.rel_url.raw_path[:200]}"
    match error:
        case Refusal():
            return error
        case web.HTTPRequestEntityTooLarge():
            return too_large(MAX_BODY_BYTES)
        case web.HTTPNotFound():
            return Refusal(404, "not_found", f"there is nothing at {what}")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            words = f"{what}: this route takes {allowed}"
            return Refusal(405, "method_not_allowed", words, headers={"Allow": allowed})
        case web.RequestPayloadError():  # it does not hold what its headers say
            words = f"the body cannot be read: {error}"
            return Refusal(400, "bad_request", words, headers={"Connection": "close"})
        case web.HTTPException():
            return Refusal(error.status, "bad_request", error.text or error.reason)
        case ConnectionError() if request.transport is None:
            return Refusal(400, "client_gone", f"{what}: the client went before all of it had come")
        case JobExists():
            return Refusal(409, "job_exists", str(error))
        case QueueFull():
            headers = {"Retry-After": str(QUEUE_FULL_S), "X-Should-Retry": "true"}
            return Refusal(429, "queue_full", str(error), headers=headers)
        case JobRefused():
            return Refusal(400, "job_refused", str(error))
        case PathError():
            return Refusal(404, "file_not_found", str(error))
        case PictureError():
            return Refusal(400, "not_a_picture", str(error))
        case FileError():
            return Refusal(400, "bad_file", str(error))
        case NetworkError():
            return Refusal(400, "bad_url", str(error))
        case LedgerError():
            log.error("%s: %s", what, error)
            return Refusal(503, "ledger_unavailable", str(error))
        case RecursionError():
            return Refusal(400, "invalid_json", "the request is nested too deeply")
        case _:
            log.error("%s failed", what, exc_info=error)
            words = f"{what} failed in the server; its log says why"
            return Refusal(500, "internal_error", words)


def too_large(most_bytes: int) -> Refusal:
    """For a body beyond what is taken."""
    words = f"the request is larger than {most_bytes // 2**20} MiB"
    return Refusal(413, "request_too_large", words)
