"""Whom the server answers: not the scripts of other web sites, which a browser lets ask.

A page elsewhere can make its visitor's browser send requests here. Such a request says so by its
``Origin``, which must be this server. A site whose name is made to lead to this machine (DNS
rebinding) has the right origin, but a wrong ``Host``: a server that listens on loopback only is
asked for by loopback names only.
"""

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from aiohttp import web

from executor.api.keys import SETTINGS
from executor.api.refusal import Refusal

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PORTS = {"http": 80, "https": 443, "": None}


@web.middleware
async def only_own_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what pages of other sites send."""
    settings = request.app[SETTINGS]
    host = request.headers.get("Host", "")
    if fault := host_fault(host, settings.listen, settings.allowed_hosts):
        raise Refusal(403, "foreign_host", fault)
    origin = request.headers.get("Origin")
    if origin is not None and (fault := origin_fault(origin, host)):
        raise Refusal(403, "foreign_origin", fault)
    return await handler(request)


def host_fault(host: str, listen: str, allowed: Iterable[str]) -> str:
    """Why a server that listens there is not to be asked under this name, or nothing."""
    if not host:  # HTTP/1.0, which no browser speaks
        return ""
    name = _name(_split(f"//{host}"))
    if name in {allowed_name.casefold().rstrip(".") for allowed_name in allowed}:
        return ""
    if all(is_loopback(address.strip()) for address in listen.split(",")) and not (
        name is not None and is_loopback(name)
    ):
        return (
            f"this server is for its own machine only and has no name {host[:100]!r}; "
            "set allowed_hosts to let it have one"
        )
    return ""


def origin_fault(origin: str, host: str) -> str:
    """Why a request from a page of this origin is refused, or nothing."""
    from_where, to = _split(origin), _split(f"//{host}")
    own = _name(to)
    if from_where is not None and to is not None and own is not None and _name(from_where) == own:
        usual = _PORTS.get(from_where.scheme)
        if (from_where.port or usual) == (to.port or usual):
            return ""
    return (
        f"a page of {origin[:100]!r} must not use the server {host[:100]!r}; behind a proxy, "
        "let that pass the Host header on"
    )


def is_loopback(name: str) -> bool:
    """Whether a host name or address is always this machine."""
    name = name.strip("[]").casefold().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is looked at only now
    except ValueError:
        return None
    return parts


def _name(parts: SplitResult | None) -> str | None:
    """The host of an address, as names are compared."""
    name = parts.hostname if parts else None
    return name.rstrip(".") if name else None
