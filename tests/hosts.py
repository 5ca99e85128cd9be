"""Other hosts in the network: real servers on loopback, found under names that a test makes up."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from executor.api.outside import Outside

LOOPBACK = "127.0.0.1"


@dataclass
class Host:
    """A host, what it was asked, and the names that lead to it."""

    port: int = 0
    asked: list[web.BaseRequest] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    names: dict[str, Sequence[str]] = field(default_factory=dict)

    def url(self, path: str = "/", name: str = "pictures.example") -> str:
        return f"http://{name}:{self.port}{path}"

    async def resolve(self, name: str, port: int) -> Sequence[str]:
        """What a name server answers: loopback for most, as the test's own network is that."""
        self.looked_up.append(name)
        if name.startswith("no."):
            raise OSError("no such name")
        return self.names.get(name, [LOOPBACK])

    def outside(self, **more: Any) -> Outside:
        """A door that takes loopback for the public network, and nothing else for it."""
        settings: dict[str, Any] = {
            "ports": (self.port,),
            "at_once": 4,
            "resolve": self.resolve,
            "is_allowed": lambda address: address == LOOPBACK,
        }
        return Outside(**settings | more)


Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def host(answer: Answer) -> AsyncGenerator[Host]:
    """A host that answers everything so."""
    asked = Host()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        asked.asked.append(request)
        asked.bodies.append(await request.read())
        return await answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app, host=LOOPBACK) as server:
        asked.port = server.port or 0
        yield asked


async def never(request: web.BaseRequest) -> web.StreamResponse:
    """Hang."""
    await asyncio.Event().wait()
    raise AssertionError("nothing ends this")
