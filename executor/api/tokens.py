"""Who asks: the token that a request shows, and what follows from it.

Where there is a token, every request must show one: as ``Authorization: Bearer SECRET``, as the
bare secret in that header, or as the session of a browser that has logged in. A job belongs to the
token that it was submitted with; others do not see it. Where there is none, the server is its own
machine's: everybody who reaches it may do everything.
"""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlencode

from aiohttp import web

from executor.api.access_log import Handler
from executor.api.keys import SETTINGS
from executor.api.refusal import Refusal
from executor.api.security import is_loopback
from executor.api.sessions import Sessions
from executor.settings import Settings
from executor.tokens import Token, Tokens

TOKENS: web.AppKey[Tokens] = web.AppKey("tokens", Tokens)
SESSIONS: web.AppKey[Sessions] = web.AppKey("sessions", Sessions)

OPEN = frozenset({"/livez", "/login", "/logout"})
"""Asked by whoever wants to know whether the process lives, and by whoever has not logged in."""

OPEN_HERE = frozenset({"/readyz", "/metrics"})
"""Asked by supervisors on the same machine, which need no token; by others only with one."""

SIGNED = "/files/"
"""Below which an address is its own permission (``executor.api.signing``)."""

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
"""A proxy on this machine asks for others, who are not on it."""

_MOST_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Without a token: somebody who may do everything."""

    token: Token | None = None

    @property
    def owner(self) -> str:
        """Whose are jobs and files that come from it."""
        return self.token.name if self.token else ""

    @property
    def scope(self) -> str | None:
        """Whose jobs and files it sees; None: everybody's."""
        return None if self.token is None or self.token.is_admin else self.token.name


_NOBODY = Caller()

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)


def caller_of(request: web.Request) -> Caller:
    """Who asks."""
    return request.get(CALLER, _NOBODY)


def owner_of(request: web.Request) -> str:
    """Whose are jobs and files that come with a request."""
    return caller_of(request).owner


def scope_of(request: web.Request) -> str | None:
    """Whose jobs and files a request may see and change: an owner's, or with None everybody's."""
    return caller_of(request).scope


def is_still_known(request: web.Request) -> bool:
    """Whether who asked might still ask: what goes on for long looks now and then."""
    app, token = request.app, caller_of(request).token
    if token is None:
        return app[TOKENS].is_empty and may_be_anonymous(app[SETTINGS])
    return app[TOKENS].named(token.name) == token


def refuse_the_scoped(request: web.Request, what: str) -> None:
    """Raise Refusal unless everybody's is the caller's to see."""
    if scope_of(request) is not None:
        raise Refusal(403, "not_allowed", f"{what} are for tokens made with --admin")


@web.middleware
async def ask_for_token(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let those pass who may, and note who they are."""
    app = request.app
    path = request.path.removeprefix("/api")
    if path in OPEN or path.startswith(SIGNED):
        return await handler(request)
    tokens = app[TOKENS]
    if tokens.is_empty and may_be_anonymous(app[SETTINGS]):
        return await handler(request)
    shown = _shown(request)
    token = tokens.of_secret(shown) if shown else None
    if token is None:  # a proxy may have put something of its own into the header
        token = app[SESSIONS].token_of(request, tokens)
    if token is None:
        if path in OPEN_HERE and _is_here(request):
            return await handler(request)
        if not shown and _wants_page(request):
            # Relative: a proxy may have the whole server below a path of its own.
            up = "../" * (request.rel_url.raw_path.count("/") - 1)
            where = urlencode({"next": request.rel_url.raw_path_qs})
            return web.Response(status=303, headers={"Location": f"{up}login?{where}"})
        raise _unauthorized(tokens, shown)
    request[CALLER] = Caller(token)
    return await handler(request)


def may_be_anonymous(settings: Settings) -> bool:
    """Whether a server without any token answers: on its own machine, or if that is meant."""
    return settings.allow_anonymous or listens_here_only(settings.listen)


def listens_here_only(listen: str) -> bool:
    """Whether all of these addresses, separated by commas, are of this machine only."""
    return all(is_loopback(address.strip()) for address in listen.split(","))


def _shown(request: web.Request) -> str:
    """The secret that a request shows in its header, if any."""
    header = request.headers.get("Authorization", "")
    scheme, _, rest = header.partition(" ")
    secret = rest.strip() if scheme.casefold() == "bearer" else header.strip()
    return secret[:_MOST_CHARACTERS]


def _is_here(request: web.Request) -> bool:
    """Whether a request comes from this machine, and not through a proxy on it."""
    remote = request.remote or ""
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return False
    return is_loopback(str(address)) and not any(name in request.headers for name in _FORWARDED)


def _wants_page(request: web.Request) -> bool:
    """Whether a person looks at the answer."""
    is_page = "text/html" in request.headers.get("Accept", "")
    return is_page and request.method == "GET" and "Upgrade" not in request.headers


def _unauthorized(tokens: Tokens, shown: str) -> Refusal:
    if tokens.is_empty:
        words = (
            "this server is reached from networks and has no token, so it answers nobody; "
            "weft token add NAME makes one"
        )
    elif shown:
        words = "the token is not known to this server; was it removed?"
    else:
        words = "show a token, as Authorization: Bearer …; weft token add NAME makes one"
    headers = {"WWW-Authenticate": 'Bearer realm="weft"'}
    return Refusal(401, "invalid_api_key", words, headers=headers)
