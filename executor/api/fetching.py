"""Pictures that a request only names: in a data URL, or in the network if that is enabled."""

import base64
import binascii
import re
from functools import partial
from urllib.parse import unquote_to_bytes

from aiohttp import ClientResponse, web
from yarl import URL

from executor.api.keys import DECODING, SETTINGS
from executor.api.outside import Outside
from executor.api.renditions import check
from executor.errors import NetworkError, PictureError
from executor.settings import Settings

MOST_REDIRECTS = 3
AT_ONCE = 8
"""Fetched at a time; each may be held in memory whole."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 2**16
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[^;,]*)*),", re.IGNORECASE)
_UNTYPED = frozenset({"application/octet-stream", "binary/octet-stream"})

FETCHING: web.AppKey[Outside] = web.AppKey("fetching", Outside)


def outside_for_pictures(settings: Settings) -> Outside:
    """The door for pictures that are fetched."""
    return Outside(ports=settings.outside_ports, at_once=AT_ONCE)


async def fetch_picture(app: web.Application, url: str, what: str = "the picture") -> bytes:
    """The content of a picture file that a URL names; ``what`` is what messages call it.

    Raises NetworkError for what cannot be had, or must not, PictureError for what is no picture.
    """
    settings, decoding = app[SETTINGS], app[DECODING]
    if url[:5].casefold() == "data:":
        content = await decoding.do(partial(_content_of, url, what))
    elif not re.match("https?:", url, re.IGNORECASE):
        raise NetworkError(f"{what} must be a data URL, or an http or https one")
    elif not settings.fetch_urls:
        raise NetworkError(
            f"{what}: this server fetches nothing (setting fetch_urls); send it as a data URL"
        )
    else:
        try:
            content = await _fetched(app[FETCHING], url, settings.fetch_bytes)
        except NetworkError as error:
            raise NetworkError(f"{what}: {error}") from error
    await decoding.do(partial(check, content, settings.max_picture_pixels, what))
    return content


def _content_of(url: str, what: str) -> bytes:
    """What a data URL holds."""
    head = _DATA_URL.match(url)
    if head is None:
        raise PictureError(f"{what} is no data URL; they begin like data:image/png;base64,")
    if not (head[1] or "image/").casefold().startswith("image/"):
        raise PictureError(f"{what} is of the type {head[1][:60]}, which is no picture's")
    data = url[head.end() :]
    try:
        content = unquote_to_bytes(data) if "%" in data else data.encode("ascii")
        if head[2].casefold().endswith(";base64"):
            content = base64.b64decode(b"".join(content.split()), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise PictureError(f"{what} is no data URL: {error}") from error
    return content


async def _fetched(outside: Outside, text: str, most_bytes: int) -> bytes:
    """What is found at a URL, or where that leads. Raises NetworkError."""
    url = outside.checked(text)
    for _ in range(MOST_REDIRECTS + 1):
        async with outside.asking("GET", url, headers={"Accept": "image/*"}) as response:
            if response.status not in _REDIRECTS:
                return await _body(response, most_bytes)
            url = outside.checked(_target(url, response.headers.get("Location", "")))
    raise NetworkError(f"it leads on more than {MOST_REDIRECTS} times")


def _target(url: URL, location: str) -> str:
    """Where an answer leads on to."""
    try:
        return str(url.join(URL(location)))
    except ValueError as error:
        raise NetworkError("it leads on to what is no URL") from error


async def _body(response: ClientResponse, most_bytes: int) -> bytes:
    """The content of an answer that may be a picture. Raises NetworkError."""
    if response.status != 200:
        raise NetworkError(f"{response.url.raw_host} answered with {response.status}")
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().casefold()
    if kind and not kind.startswith("image/") and kind not in _UNTYPED:
        raise NetworkError(f"it is of the type {kind[:60]!r}, which is no picture's")
    if response.headers.get("Content-Encoding", "identity").casefold() != "identity":
        raise NetworkError("it came compressed, which was not asked for")
    content = bytearray()
    if (response.content_length or 0) <= most_bytes:
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            content += chunk
            if len(content) > most_bytes:
                break
        else:
            return bytes(content)
    raise NetworkError(f"it is larger than {most_bytes:,} bytes (setting fetch_bytes)")
