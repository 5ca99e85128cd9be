"""Files that the editor keeps for its user: workflows, and what else it likes to remember.

They are in ``user/default``, where ComfyUI has them too; those of a token in a folder of its own.
A file's name is one percent-encoded segment of the address, folders included:
``/userdata/workflows%2Fa.json``.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from aiohttp import web

from executor.api.file_reply import file_reply
from executor.api.keys import FOLDERS
from executor.api.refusal import Refusal, too_large
from executor.api.replies import json_reply
from executor.api.tokens import scope_of
from executor.errors import NameTaken, OutsideError, PathError
from executor.paths import inside
from executor.saving import rename, save_as

USER = "default"
OTHERS = "of_tokens"
MOST_BYTES = 32 * 2**20
"""Of one file: far above any workflow, and held in memory while it is sent."""

MOST_LISTED = 20_000


async def users(request: web.Request) -> web.Response:
    """There is one user, and what the frontend once kept in the browser is here."""
    return json_reply({"storage": "server", "migrated": True})


async def listing(request: web.Request) -> web.Response:
    """The files of a folder, in the form that is asked for."""
    name = request.query.get("dir", "")
    if not name:
        raise Refusal(400, "bad_request", "dir must name a folder")
    root = _path(request, name)
    is_deep = _is_on(request, "recurse")
    found = await asyncio.to_thread(_files, root, is_deep=is_deep)
    if _is_on(request, "full_info"):
        return json_reply([{**_about(path), "path": name} for name, path in found])
    if _is_on(request, "split"):
        return json_reply([[name, *name.split("/")] for name, _ in found])
    return json_reply([name for name, _ in found])


async def read(request: web.Request) -> web.StreamResponse:
    """A file's content."""
    return file_reply(_existing(request, request.match_info["file"]))


async def write(request: web.Request) -> web.Response:
    """Keep a file, in place of another unless ``overwrite=false``."""
    name = request.match_info["file"]
    directory = home_of(request)
    _path(request, name)  # refused before the content is read
    content = bytearray()
    async for chunk in request.content.iter_any():
        content += chunk
        if len(content) > MOST_BYTES:
            raise too_large(MOST_BYTES)

    def fill(stream: BinaryIO) -> None:
        stream.write(content)

    keep = partial(save_as, directory, name, fill, may_replace=_may_replace(request))
    return _told(request, await _unless_taken(keep))


async def move(request: web.Request) -> web.Response:
    """Give a file another name."""
    name, new_name = request.match_info["file"], request.match_info["dest"]
    _existing(request, name)
    _path(request, new_name)
    may_replace = _may_replace(request)
    keep = partial(rename, home_of(request), name, new_name, may_replace=may_replace)
    return _told(request, await _unless_taken(keep))


async def delete(request: web.Request) -> web.Response:
    """Delete a file."""
    path = _existing(request, request.match_info["file"])
    await asyncio.to_thread(path.unlink, missing_ok=True)
    return web.Response(status=204)


async def _unless_taken(keep: partial[Path]) -> Path:
    """Do it in a thread. Raises Refusal if another file has the name."""
    try:
        return await asyncio.to_thread(keep)
    except NameTaken as error:
        raise Refusal(409, "name_taken", f"{error}, and overwrite is false") from error


def home_of(request: web.Request) -> Path:
    """The folder of whoever asks."""
    user, scope = request.app[FOLDERS].user, scope_of(request)
    return user / USER if scope is None else user / OTHERS / scope


def _path(request: web.Request, name: str) -> Path:
    """Where a name leads. Raises Refusal for one that no file can have, or that leads out."""
    try:
        return inside(home_of(request), name.rstrip("/"))
    except OutsideError as error:
        raise Refusal(403, "outside", str(error)) from error
    except PathError as error:
        raise Refusal(400, "bad_file_name", str(error)) from error


def _existing(request: web.Request, name: str) -> Path:
    """The file of a name. Raises PathError if there is none."""
    path = _path(request, name)
    if not path.is_file():
        raise PathError(f"there is no file {name[:100]!r}")
    return path


def _files(root: Path, *, is_deep: bool) -> list[tuple[str, Path]]:
    """Names below a folder, and their files, sorted; hidden ones are the editor's own."""
    if not root.is_dir():
        raise PathError(f"there is no folder {root.name!r}")
    found: list[tuple[str, Path]] = []
    for path in _walk(root, is_deep=is_deep):
        found.append((path.relative_to(root).as_posix(), path))
        if len(found) == MOST_LISTED:
            break
    return sorted(found, key=lambda item: item[0])


def _walk(root: Path, *, is_deep: bool) -> Iterator[Path]:
    waiting = [root]
    while waiting:
        for path in waiting.pop().iterdir():
            if path.name.startswith(".") or path.is_symlink():
                continue
            if path.is_file():
                yield path
            elif is_deep and path.is_dir():
                waiting.append(path)


def _told(request: web.Request, path: Path) -> web.Response:
    """Where a file was kept, with what there is to know of it if that is asked for."""
    name = path.relative_to(home_of(request)).as_posix()
    return json_reply({**_about(path), "path": name} if _is_on(request, "full_info") else name)


def _about(path: Path) -> dict[str, Any]:
    """Size and times; in milliseconds, as the editor's lists show them."""
    about = path.stat()
    modified, created = int(about.st_mtime * 1000), int(about.st_ctime * 1000)
    return {"size": about.st_size, "modified": modified, "created": created}


def _is_on(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in ("true", "1")


def _may_replace(request: web.Request) -> bool:
    return request.query.get("overwrite", "").lower() not in ("false", "0")


routes = [
    web.get("/users", users),
    web.get("/userdata", listing),
    web.get("/userdata/{file}", read),
    web.post("/userdata/{file}", write),
    web.delete("/userdata/{file}", delete),
    web.post("/userdata/{file}/move/{dest}", move),
]
