"""Our own page, which a browser gets where no frontend is installed: one file, nothing else.

The file holds its style and its script; the answer names their hashes, and so the browser runs and
fetches nothing that is not ours, whatever a workflow or a file's name may hold.
"""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path

from aiohttp import web

_FILE = Path(__file__).with_name("page.html")
_INLINE = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


async def page(request: web.Request) -> web.Response:
    """Answer with the page."""
    headers = {
        "Content-Security-Policy": _policy(),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(body=_html(), content_type="text/html", charset="utf-8", headers=headers)


@cache
def _html() -> bytes:
    return _FILE.read_bytes()


@cache
def _policy() -> str:
    """What the page may do: run and show what is in it, and speak to this server."""
    hashes = {
        kind.decode(): f"'sha256-{b64encode(sha256(text).digest()).decode()}'"
        for kind, text in _INLINE.findall(_html())
    }
    allowed = {
        "default-src": "'none'",
        "script-src": hashes["script"],
        "style-src": hashes["style"],
        "img-src": "'self' blob: data:",  # previews are blobs, the icon is data
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{what} {whence}" for what, whence in allowed.items())
