"""The editor's settings: one JSON object, in the file where ComfyUI has it too."""

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from aiohttp import web

from executor.api.body import json_body, object_body
from executor.api.refusal import Refusal, too_large
from executor.api.replies import json_reply, json_text
from executor.api.userdata import home_of
from executor.saving import rename, save_as

log = logging.getLogger(__name__)

NAME = "comfy.settings.json"
MOST_BYTES = 4 * 2**20

FIRST: Mapping[str, Any] = {"Comfy.TutorialCompleted": True}
"""Of a user without settings: else the editor opens with a choice of templates for large models."""


class Preferences:
    """The files of all users, which are read anew for each question, and changed one at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def read(self, home: Path) -> dict[str, Any]:
        """All settings of the user whose folder this is."""
        return await asyncio.to_thread(_read, home)

    async def merge(self, home: Path, changes: Mapping[str, Any]) -> None:
        """Set some of them. Raises Refusal if there would be too many, FileError."""
        async with self._turn:
            text = json_text({**await self.read(home), **changes})
            content = text.encode(errors="backslashreplace")
            if len(content) > MOST_BYTES:
                raise too_large(MOST_BYTES)

            def fill(stream: BinaryIO) -> None:
                stream.write(content)

            await asyncio.to_thread(save_as, home, NAME, fill)


def _read(home: Path) -> dict[str, Any]:
    try:
        text = (home / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return dict(FIRST)
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):  # kept, since somebody may have written it by hand
        kept = rename(home, NAME, f"{NAME}.damaged")
        log.error("%s held no JSON object; it is %s now", NAME, kept.name)
        return dict(FIRST)
    return cast("dict[str, Any]", value)


PREFERENCES: web.AppKey[Preferences] = web.AppKey("preferences", Preferences)


async def read_all(request: web.Request) -> web.Response:
    """All settings."""
    return json_reply(await request.app[PREFERENCES].read(home_of(request)))


async def read_one(request: web.Request) -> web.Response:
    """One setting; null, if it was never set."""
    return json_reply(
        (await request.app[PREFERENCES].read(home_of(request))).get(request.match_info["id"])
    )


async def change(request: web.Request) -> web.Response:
    """Set those that the body names."""
    await request.app[PREFERENCES].merge(home_of(request), await object_body(request))
    return web.Response()


async def change_one(request: web.Request) -> web.Response:
    """Set one; the body is its value."""
    name = request.match_info["id"]
    if len(name) > 500:
        raise Refusal(400, "bad_request", "a setting's name has at most 500 characters")
    await request.app[PREFERENCES].merge(home_of(request), {name: await json_body(request)})
    return web.Response()


routes = [
    web.get("/settings", read_all),
    web.get("/settings/{id}", read_one),
    web.post("/settings", change),
    web.post("/settings/{id}", change_one),
]
