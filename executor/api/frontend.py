"""What a browser gets at ``/``: a frontend that is installed or given, or Weft's own page.

ComfyUI's own frontend is served from its package as it is; nothing of it is part of Weft. Beside
its files, it asks for some things that Weft has none of, and is told so.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from mimetypes import MimeTypes
from pathlib import Path
from typing import Any

from aiohttp import web

from executor.api.page import page
from executor.api.replies import json_reply
from executor.errors import PathError, SettingsError
from executor.paths import inside

# Not the system's table, where a program may have written that scripts are plain text.
_TYPES = MimeTypes()
for _type, _suffix in (
    ("text/javascript", ".js"),
    ("text/javascript", ".mjs"),
    ("application/wasm", ".wasm"),
    ("application/json", ".map"),
    ("font/woff2", ".woff2"),
    ("image/webp", ".webp"),
    ("image/avif", ".avif"),
    ("text/markdown", ".md"),
):
    _TYPES.add_type(_type, _suffix)
_TEXTS = ("text/", "application/json")


@dataclass(frozen=True, slots=True)
class Frontend:
    """The folders of a frontend, as far as they are there."""

    root: Path | None
    beside: Mapping[str, Path]  # templates and docs of nodes, in packages of their own


FRONTEND: web.AppKey[Frontend] = web.AppKey("frontend", Frontend)


def find_frontend(root: Path | None) -> Frontend:
    """The frontend of this folder, or the installed one. Raises SettingsError."""
    if root is not None and not (root / "index.html").is_file():
        raise SettingsError(f"front_end_root: there is no index.html in {root}")
    found = {
        "templates": _in_package("comfyui_workflow_templates", "templates"),
        "docs": _in_package("comfyui_embedded_docs", "docs"),
    }
    return Frontend(
        root.absolute() if root else _in_package("comfyui_frontend_package", "static"),
        {name: path for name, path in found.items() if path is not None},
    )


def _in_package(package: str, folder: str) -> Path | None:
    """A folder of an installed package, which is not imported for it."""
    spec = find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(location) / folder).is_dir():
            return path
    return None


async def index(request: web.Request) -> web.StreamResponse:
    """The frontend's page, or our own."""
    root = request.app[FRONTEND].root
    if root is None:
        return await page(request)
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    return web.FileResponse(root / "index.html", headers=headers)


async def static(request: web.Request) -> web.StreamResponse:
    """A file of the frontend."""
    frontend, name = request.app[FRONTEND], request.match_info["path"]
    first, _, rest = name.partition("/")
    root = frontend.beside.get(first)
    path = await asyncio.to_thread(_file, root, rest) if root else None
    if path is None and frontend.root is not None:
        path = await asyncio.to_thread(_file, frontend.root, name)
    if path is None:
        raise web.HTTPNotFound
    return web.FileResponse(path, headers=_headers(path))


def _file(root: Path, name: str) -> Path | None:
    """The file of a name, or nothing."""
    try:
        path = inside(root, name)
    except PathError:
        return None
    return path if path.is_file() else None


def _headers(path: Path) -> dict[str, str]:
    content_type = _TYPES.guess_type(path.name)[0] or "application/octet-stream"
    if content_type.startswith(_TEXTS):
        content_type += "; charset=utf-8"
    # Built files in assets have their content's hash in their name, so they never change.
    is_hashed = path.parent.name == "assets" and path.suffix in (".js", ".css", ".woff2")
    kept = "public, max-age=31536000, immutable" if is_hashed else "no-cache"
    return {
        "Content-Type": content_type,
        "Cache-Control": kept,
        "X-Content-Type-Options": "nosniff",
    }


def _always(value: Any) -> Any:
    """A handler that answers with the same thing each time."""

    async def answer(request: web.Request) -> web.Response:
        """Something that the official frontend asks for, and of which there is nothing here."""
        return json_reply(value)

    return answer


routes = [
    web.get("/extensions", _always([])),
    web.get("/i18n", _always({})),
    web.get("/workflow_templates", _always({})),
    web.get("/global_subgraphs", _always({})),
    web.get("/node_replacements", _always({})),
]

page_routes = [web.get("/", index), web.get("/{path:.+}", static)]
"""These come last and once: the second takes every path that is left."""
