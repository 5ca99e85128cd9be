"""OpenAI's list of models: those that applications can name here."""

import asyncio
from typing import Any

from aiohttp import web

from executor.api.keys import MODELS
from executor.api.picture_jobs import named_model
from executor.api.replies import json_reply
from executor.public_models import PublicModel

OWNER = "weft"


async def models(request: web.Request) -> web.Response:
    """All models."""
    found = await asyncio.to_thread(request.app[MODELS].all)
    return json_reply({"object": "list", "data": [_shown(model) for model in found.values()]})


async def model(request: web.Request) -> web.Response:
    """One model, by name."""
    return json_reply(_shown(await named_model(request.app, request.match_info["model"])))


def _shown(model: PublicModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.file.identity[2] // 10**9,
        "owned_by": OWNER,
    }


routes = [web.get("/v1/models", models), web.get("/v1/models/{model:.+}", model)]
