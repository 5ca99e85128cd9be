"""Our own pages: each one file that holds its style and its script, and nothing else.

``page.html`` is what a browser gets where no frontend is installed. The answer names the hashes of
style and script, and so the browser runs and fetches nothing that is not ours, whatever a workflow
or a file's name may hold.
"""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).parent
_INLINE = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


async def page(request: web.Request) -> web.Response:
    """Answer with the page."""
    return page_reply("page")


def page_reply(name: str) -> web.Response:
    """Answer with the page of a name, under its policy."""
    headers = {
        "Content-Security-Policy": _policy(name),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    html = _html(name)
    return web.Response(body=html, content_type="text/html", charset="utf-8", headers=headers)


@cache
def _html(name: str) -> bytes:
    return (_FOLDER / f"{name}.html").read_bytes()


@cache
def _policy(name: str) -> str:
    """What the page may do: run and show what is in it, and speak to this server."""
    hashes = {
        kind.decode(): f"'sha256-{b64encode(sha256(text).digest()).decode()}'"
        for kind, text in _INLINE.findall(_html(name))
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
