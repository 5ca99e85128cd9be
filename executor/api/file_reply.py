"""Answers that carry files of users, so that none of them runs as a page of this server.

A file is shown in the browser only if its suffix is that of something without scripts; all else,
SVG and HTML too, is a download without a type. Browsers are told not to guess otherwise.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from aiohttp import web

SHOWN: Mapping[str, str] = {
    ".apng": "image/apng",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jfif": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
"""Content types of files that a browser may show, by suffix."""

UNKNOWN = "application/octet-stream"


def file_reply(path: Path, *, name: str | None = None) -> web.FileResponse:
    """A file; aiohttp answers conditional and partial requests by its size and time."""
    shown = name or path.name
    content_type = SHOWN.get(PurePosixPath(shown).suffix.lower(), UNKNOWN)
    return web.FileResponse(path, headers=headers_for(shown, content_type))


def made_reply(body: bytes, *, name: str, content_type: str, mark: str) -> web.Response:
    """Something made of a file, which changes when ``mark`` does."""
    response = web.Response(body=body, headers=headers_for(name, content_type))
    response.etag = mark
    return response


def is_known(request: web.Request, mark: str) -> bool:
    """Whether the client has what was made under this mark already."""
    return any(tag.value in (mark, "*") for tag in request.if_none_match or ())


def unchanged_reply(mark: str) -> web.Response:
    """Says so."""
    response = web.Response(status=304)
    response.etag = mark
    return response


def headers_for(name: str, content_type: str) -> dict[str, str]:
    """What is said with a file of this name."""
    disposition = "attachment" if content_type == UNKNOWN else "inline"
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in name)
    disposition += f'; filename="{plain}"'
    if plain != name:  # RFC 6266, with the plain name for those who do not know it
        disposition += f"; filename*=UTF-8''{quote(name, safe='')}"
    return {
        "Content-Type": content_type,
        "Content-Disposition": disposition,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "no-cache",  # which means: ask whether it has changed
    }
