"""Where a browser shows a token once, and has a session from then on; and where it ends that.

A page without a script, which asks nothing from anywhere. It leads to relative addresses, as a
proxy may have the whole server below a path of its own.
"""

from base64 import b64encode
from hashlib import sha256
from html import escape
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from executor.api.refusal import Refusal
from executor.api.tokens import SESSIONS, TOKENS

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; min-height: 100dvh; display: grid; place-content: center; padding: 1rem; }
form { display: grid; gap: .75rem; width: min(22rem, 90vw); }
h1 { font: 600 1.5rem/1.2 ui-serif, Georgia, serif; margin: 0; }
p { margin: 0; }
input, button { font: inherit; padding: .5rem .75rem; border-radius: 8px; border: 1px solid #8888; }
button { background: #33459b; color: #fff; font-weight: 600; cursor: pointer; }
"""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)

_MOST_BYTES = 8 * 2**10


async def page(request: web.Request) -> web.Response:
    """The page that asks for a token, or lets a browser that has shown one log out."""
    token = request.app[SESSIONS].token_of(request, request.app[TOKENS])
    if token is not None:
        return _reply(
            '<form method="post" action="logout"><h1>Weft</h1>'
            f"<p>You are logged in as {escape(token.name)}.</p><button>Log out</button></form>"
        )
    return _page(_next(request.query.get("next", "")))


async def login(request: web.Request) -> web.Response:
    """Begin a session with the token of a form, and go on to the page that was asked for."""
    fields = dict(parse_qsl(await _small_body(request)))
    where = _next(fields.get("next", ""))
    token = request.app[TOKENS].of_secret(fields.get("token", "").strip())
    if token is None:
        return _page(where, "This server does not know that token.", status=401)
    response = web.Response(status=303, headers={"Location": f".{where}"})
    # A proxy may speak TLS for us; the browser says what it speaks.
    origin = request.headers.get("Origin", "")
    is_secure = request.secure or origin.startswith("https://")
    request.app[SESSIONS].begin(response, token, is_secure=is_secure)
    return response


async def logout(request: web.Request) -> web.Response:
    """End the session of this browser."""
    response = web.Response(status=303, headers={"Location": "login"})
    request.app[SESSIONS].end(response)
    return response


async def _small_body(request: web.Request) -> str:
    """The form that was sent, by somebody unknown. Raises Refusal."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise Refusal(413, "request_too_large", "a token is not as long as that")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Refusal(400, "bad_request", "the form is not encoded in UTF-8") from error


def _next(wanted: str) -> str:
    """Where to go afterwards: a page of this server, whatever an address says."""
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return "/"
    is_ours = wanted.startswith("/") and not parts.netloc and "\\" not in wanted
    return wanted if is_ours and wanted.isprintable() and wanted.isascii() else "/"


def _page(where: str, fault: str = "", *, status: int = 200) -> web.Response:
    said = f'<p role="alert">{escape(fault)}</p>' if fault else ""
    return _reply(
        '<form method="post" action="login"><h1>Weft</h1>'
        f"<p>Show a token to use this server.</p>{said}"
        '<input type="password" name="token" aria-label="Token" autocomplete="current-password"'
        " required autofocus>"
        f'<input type="hidden" name="next" value="{escape(where)}">'
        "<button>Log in</button></form>",
        status=status,
    )


def _reply(body: str, *, status: int = 200) -> web.Response:
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Weft: log in</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    headers = {
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",  # with none at all, browsers send no Origin either
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(
        text=html, status=status, content_type="text/html", charset="utf-8", headers=headers
    )


routes = [
    web.get("/login", page),
    web.post("/login", login),
    web.post("/logout", logout),
]
