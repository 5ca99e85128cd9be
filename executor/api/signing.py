"""``/files/…``: pictures at addresses that are their own permission, for some time.

An address says which file, until when, and is signed with the server's secret. It is of the file
as it is now: a later one of its name is another picture, perhaps somebody else's.
"""

import asyncio
import hmac
from time import time
from urllib.parse import quote

from aiohttp import web

from executor.api.file_reply import file_reply
from executor.api.files import find, place_of
from executor.api.keys import FOLDERS, SETTINGS
from executor.api.refusal import Refusal
from executor.paths import fingerprint
from executor.secret import Secret


class Signing:
    """What makes signatures, and knows its own again."""

    def __init__(self, secret: Secret) -> None:
        self._key = secret.key_for("files")

    def signature(self, name: str, ends_s: int, content: str) -> str:
        """Of a file by its place and name, until then, with this content (``fingerprint``)."""
        text = f"{ends_s} {content} {name}".encode(errors="surrogatepass")
        return hmac.digest(self._key, text, "sha256").hex()


SIGNING: web.AppKey[Signing] = web.AppKey("signing", Signing)


def base_url_of(request: web.Request) -> str:
    """How the client that asks reaches this server; the settings may know better."""
    return request.app[SETTINGS].public_url or f"{request.scheme}://{request.host}"


def sign(request: web.Request, filename: str, subfolder: str = "", place: str = "output") -> str:
    """The address of a file, which needs no token. Raises PathError if there is none."""
    return signed(request.app, base_url_of(request), filename, subfolder, place)


def signed(
    app: web.Application, base_url: str, filename: str, subfolder: str = "", place: str = "output"
) -> str:
    """The same for a client that reaches the server at this address."""
    content = fingerprint(find(app[FOLDERS], place_of(place), filename, subfolder))
    name = "/".join(filter(None, (place, subfolder, filename)))
    ends_s = int(time()) + app[SETTINGS].file_url_seconds
    signature = app[SIGNING].signature(name, ends_s, content)
    return f"{base_url}/files/{quote(name)}?of={content}&exp={ends_s}&sig={signature}"


async def file(request: web.Request) -> web.StreamResponse:
    """A file, for whoever has its address, until that ends."""
    name, query = request.match_info["id"], request.query
    content, ends, signature = (query.get(key, "") for key in ("of", "exp", "sig"))
    is_number = ends.isascii() and ends.isdigit() and len(ends) < 15
    ours = request.app[SIGNING].signature(name, int(ends) if is_number else 0, content)
    if not (is_number and signature.isascii() and hmac.compare_digest(ours, signature)):
        raise _refused("this server did not sign the address; give all of it, as it was given out")
    if int(ends) < time():
        raise _refused("the address has expired; ask for the job again to get a new one")
    place, _, rest = name.partition("/")
    subfolder, _, filename = rest.rpartition("/")
    folders = request.app[FOLDERS]
    path = await asyncio.to_thread(find, folders, place_of(place), filename, subfolder)
    if fingerprint(path) != content:
        raise _refused("the file is another one now")
    return file_reply(path)


def _refused(words: str) -> Refusal:
    return Refusal(403, "bad_signature", words)


routes = [web.get("/files/{id:.+}", file)]
