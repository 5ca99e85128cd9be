"""The example workflows that ship with Weft, and the pictures that they made."""

from pathlib import Path

from aiohttp import web

from executor.api.refusal import Refusal
from executor.api.replies import json_reply
from executor.errors import nearest
from executor.paths import SHIPPED_WORKFLOWS

_FIRST = ("text_to_image", "image_to_image", "inpaint", "outpaint")
"""What people mostly come for."""


def _names() -> list[str]:
    found = sorted(file.stem for file in SHIPPED_WORKFLOWS.glob("*.json"))
    return sorted(found, key=lambda name: (*_FIRST, name).index(name))


def _name(request: web.Request) -> str:
    """The example that a request asks for; nothing but the names that there are leads to a file."""
    name, names = request.match_info["name"], _names()
    if name not in names:
        words = f"there is no example {name[:100]!r}{nearest(name[:100], names)}"
        raise Refusal(404, "not_found", words)
    return name


def _picture(name: str) -> Path:
    return SHIPPED_WORKFLOWS / "pictures" / f"{name}_00001_.png"


async def examples(request: web.Request) -> web.Response:
    """Their names, and whether there is a picture."""
    listed = [
        {
            "name": name,
            "title": name.replace("_", " ").capitalize(),
            "has_picture": _picture(name).is_file(),
        }
        for name in _names()
    ]
    return json_reply(listed)


async def example(request: web.Request) -> web.FileResponse:
    """A workflow, in API format."""
    return web.FileResponse(SHIPPED_WORKFLOWS / f"{_name(request)}.json")


async def picture(request: web.Request) -> web.FileResponse:
    """The picture that an example made."""
    name = _name(request)
    if not _picture(name).is_file():
        raise Refusal(404, "not_found", f"the example {name!r} has no picture")
    return web.FileResponse(_picture(name))


routes = [
    web.get("/examples", examples),
    web.get("/examples/{name}", example),
    web.get("/examples/{name}/picture", picture),
]
