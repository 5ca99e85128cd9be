"""What this server can do beyond the oldest frontend, as it says over HTTP and websocket."""

from aiohttp import web

from executor.api.refusal import MAX_BODY_BYTES
from executor.api.replies import json_reply

# Not announced: what the frontend would then ask for and not find (assets, node replacements).
ANNOUNCED = {"supports_preview_metadata": True, "max_upload_size": MAX_BODY_BYTES}


async def features(request: web.Request) -> web.Response:
    """The same object as the answer to a websocket's ``feature_flags``."""
    return json_reply(ANNOUNCED)


routes = [web.get("/features", features)]
