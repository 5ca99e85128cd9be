"""Which model files there are, and what they say of themselves."""

import asyncio
from pathlib import PurePosixPath
from typing import Any

from aiohttp import web

from executor.api.keys import FOLDERS
from executor.api.refusal import Refusal
from executor.api.replies import json_reply
from executor.errors import PathError
from executor.models.header import read_header
from executor.paths import PLACES, Folders

_NO_MODELS = (*PLACES, "latents")


async def folders(request: web.Request) -> web.Response:
    """The names of the folders."""
    return json_reply(_folder_names(request.app[FOLDERS]))


async def files(request: web.Request) -> web.Response:
    """The files of a folder."""
    folder = _folder(request)
    return json_reply(await asyncio.to_thread(request.app[FOLDERS].names, folder))


async def embeddings(request: web.Request) -> web.Response:
    """The embeddings, as prompts name them."""
    names = await asyncio.to_thread(request.app[FOLDERS].names, "embeddings")
    return json_reply([str(PurePosixPath(name).with_suffix("")) for name in names])


async def folders_with_paths(request: web.Request) -> web.Response:
    """The folders, and where each is on the disk."""
    found = request.app[FOLDERS]
    return json_reply(
        [
            {"name": name, "folders": [str(path) for path in found.directories[name]]}
            for name in _folder_names(found)
        ]
    )


async def files_with_sizes(request: web.Request) -> web.Response:
    """The files of a folder, with what the disk knows of them."""
    folder = _folder(request)
    return json_reply(await asyncio.to_thread(_about_files, request.app[FOLDERS], folder))


async def view_metadata(request: web.Request) -> web.Response:
    """What the trainer of a model wrote into its file. Raises FileError."""
    found, folder = request.app[FOLDERS], _folder(request)
    name = request.query.get("filename", "")
    path = await asyncio.to_thread(found.find_or_none, folder, name)
    if path is None or path.is_dir():
        raise PathError(f"{folder}: there is no file {name[:100]!r}")
    header = await asyncio.to_thread(read_header, path)
    return json_reply(header.metadata)


def _folder_names(found: Folders) -> list[str]:
    return [name for name in found.directories if name not in _NO_MODELS]


def _folder(request: web.Request) -> str:
    """The folder that the route names. Raises Refusal."""
    folder = request.match_info["folder"]
    if folder not in request.app[FOLDERS].directories or folder in _NO_MODELS:
        words = f"there is no folder of models {folder[:100]!r}; /models lists them"
        raise Refusal(404, "folder_not_found", words)
    return folder


def _about_files(found: Folders, folder: str) -> list[dict[str, Any]]:
    """Name, size and times of each file, and in which of the folder's directories it is."""
    abouts: list[dict[str, Any]] = []
    for name in found.names(folder):
        for index, directory in enumerate(found.directories[folder]):
            try:
                about = (directory / name).stat()
            except OSError:  # it is in another one
                continue
            times = {"modified": about.st_mtime, "created": about.st_ctime}
            abouts.append({"name": name, "pathIndex": index, "size": about.st_size, **times})
            break
    return abouts


routes = [
    web.get("/models", folders),
    web.get("/models/{folder}", files),
    web.get("/embeddings", embeddings),
    web.get("/experiment/models", folders_with_paths),
    web.get("/experiment/models/{folder}", files_with_sizes),
    web.get("/view_metadata/{folder}", view_metadata),
]
