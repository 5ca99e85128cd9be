"""``/view``: a picture that was made or uploaded; whole, smaller, or one channel of it."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from aiohttp import web

from executor.api.file_reply import file_reply, is_known, made_reply, unchanged_reply
from executor.api.keys import DECODING, FOLDERS, SETTINGS
from executor.api.ownership import may_read
from executor.api.refusal import Refusal
from executor.api.renditions import Channel, PreviewFormat, one_channel, preview
from executor.errors import OutsideError, PathError
from executor.paths import PLACES, Folders, fingerprint

Place = Literal["input", "output", "temp"]


async def view(request: web.Request) -> web.StreamResponse:
    """Answer with a file of the input, output or temp folder."""
    query = request.query
    place = place_of(query.get("type") or "output")
    path = await find_readable(
        request, place, query.get("filename", ""), query.get("subfolder", "")
    )
    channel = query.get("channel", "rgba")
    if channel not in ("rgba", *get_args(Channel)):
        raise Refusal(400, "bad_request", f"channel must be rgba, rgb or a, got {channel[:40]!r}")
    wanted = _preview_of(query["preview"]) if "preview" in query else None
    if wanted is None and channel == "rgba":
        return file_reply(path)

    mark = f"{fingerprint(path)}-{channel}-{query.get('preview', '')}"
    mark = "".join(c for c in mark if c.isascii() and (c.isalnum() or c == "-"))
    if is_known(request, mark):
        return unchanged_reply(mark)
    most = request.app[SETTINGS].max_picture_pixels
    decoding = request.app[DECODING]
    if wanted is not None:
        body = await decoding.do(partial(preview, path, most, wanted.format, wanted.quality))
        name, kind = f"{path.stem}.{wanted.format}", f"image/{wanted.format}"
    else:
        body = await decoding.do(partial(one_channel, path, most, cast("Channel", channel)))
        name, kind = f"{path.stem}.png", "image/png"
    return made_reply(body, name=name, content_type=kind, mark=mark)


async def find_readable(request: web.Request, place: Place, filename: str, subfolder: str) -> Path:
    """As ``find``; a file that the caller may not see is not there for it."""
    folders = request.app[FOLDERS]
    path = await asyncio.to_thread(find, folders, place, filename, subfolder)
    if not await may_read(request, *folders.placed(*_named(place, filename, subfolder))):
        raise _missing(place, filename)
    return path


def find(folders: Folders, place: Place, filename: str, subfolder: str) -> Path:
    """The file of a place, or of the one that its name mentions. Raises Refusal, PathError."""
    if not filename:
        raise Refusal(400, "bad_request", "filename must say which file to show")
    if filename.startswith("/") or ".." in filename.split("/"):
        raise Refusal(400, "bad_file_name", f"{filename[:100]!r} is no name of a file in a folder")
    try:
        found = folders.find_or_none(*_named(place, filename, subfolder))
    except OutsideError as error:
        raise Refusal(403, "outside", str(error)) from error
    if found is None:
        raise _missing(place, filename)
    return found


def _named(place: str, filename: str, subfolder: str) -> tuple[str, str]:
    """The place that is meant, and a file's name in it."""
    for mentioned in PLACES:
        if filename.endswith(f" [{mentioned}]"):
            place, filename = mentioned, filename.removesuffix(f" [{mentioned}]")
    return place, f"{subfolder}/{filename}" if subfolder else filename


def _missing(place: str, filename: str) -> PathError:
    return PathError(f"there is no file {filename[:100]!r} in the folder {place}")


def place_of(name: str) -> Place:
    """The place of this name. Raises Refusal."""
    if name not in PLACES:
        raise Refusal(400, "bad_request", f"type must be output, input or temp, got {name[:40]!r}")
    return name


class _Preview(NamedTuple):
    format: PreviewFormat
    quality: int


def _preview_of(text: str) -> _Preview:
    """``webp;90``; what is no format or quality is WebP at 90, as in ComfyUI."""
    kind, _, quality = text.partition(";")
    return _Preview(
        "jpeg" if kind == "jpeg" else "webp",
        max(1, min(100, int(quality))) if quality.isdecimal() and len(quality) < 9 else 90,
    )


routes = [web.get("/view", view)]
