"""The one door through which the server asks others in the network, for its users.

A host's name is looked up once, all addresses that it has are checked, and the connection is made
to one of these and to nothing else: a name that leads elsewhere a moment later (DNS rebinding) has
no effect. Nothing is remembered between requests, and no proxy of the environment is used.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from executor import __version__
from executor.api.addresses import checked_url, is_named, is_public, literal, not_public
from executor.errors import NetworkError

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host. Raises OSError."""

SECONDS = 10.0
"""For one request in all: looking up, connecting, asking, and reading the answer."""

# Threads that look up names, for each that may be asked at a time: a name server that is silent
# holds one for half a minute, long after nobody waits for it any more.
_LOOK_UPS = 4
_AGENT = f"Weft/{__version__}"


class Outside:
    """What may be asked, and how many at a time."""

    def __init__(
        self,
        *,
        ports: Collection[int],
        private_hosts: Collection[str] = (),
        at_once: int,
        seconds: float = SECONDS,
        resolve: Resolve | None = None,
        is_allowed: Callable[[str], bool] = is_public,
    ) -> None:
        """``resolve`` and ``is_allowed``, of an address, are others for tests only."""
        self._ports, self._private_hosts = ports, private_hosts
        self._seconds = seconds
        self._turn = asyncio.Semaphore(at_once)
        self._threads = ThreadPoolExecutor(_LOOK_UPS * at_once, thread_name_prefix="look-up")
        self._resolve = resolve or self._look_up
        self._is_allowed = is_allowed

    def checked(self, text: str) -> URL:
        """A URL, as far as can be said without looking up its host. Raises NetworkError."""
        return checked_url(text, ports=self._ports, private_hosts=self._private_hosts)

    @asynccontextmanager
    async def asking(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AsyncGenerator[ClientResponse]:
        """The answer to one request, whatever it is: no redirect is followed.

        Its body is not decompressed, and must be read within the same time. Raises NetworkError.
        """
        async with self._turn:
            try:
                async with (
                    asyncio.timeout(self._seconds),
                    self._session(url) as session,
                    session.request(
                        method, url, headers=headers, data=body, allow_redirects=False
                    ) as response,
                ):
                    yield response
            except TimeoutError as error:
                words = f"{url.raw_host} did not answer within {self._seconds:g} s"
                raise NetworkError(words) from error
            except (ClientError, OSError) as error:
                words = f"{url.raw_host} cannot be asked ({type(error).__name__})"
                raise NetworkError(words) from error

    @asynccontextmanager
    async def _session(self, url: URL) -> AsyncGenerator[ClientSession]:
        """A session that connects to the addresses that a URL's host has now, if it may."""
        addresses = await self._addresses(url)

        def new_socket(about: Any) -> socket.socket:
            family, type, proto, _, (address, *_) = about
            if address not in addresses:
                raise OSError(f"{address} was not checked")
            return socket.socket(family, type, proto)

        connector = TCPConnector(
            resolver=_Known(addresses),
            use_dns_cache=False,
            force_close=True,
            socket_factory=new_socket,
        )
        async with ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
            timeout=ClientTimeout(total=None),  # there is one around all of it
        ) as session:
            yield session

    async def _addresses(self, url: URL) -> Sequence[str]:
        """All addresses of a host. Raises NetworkError if one is none that may be asked."""
        host, port = url.raw_host or "", url.port or 0
        address = literal(host)
        if address is not None:
            addresses: Sequence[str] = [address]
        else:
            try:
                addresses = await self._resolve(host, port)
            except OSError as error:
                raise NetworkError(f"there is no host {host[:60]!r}") from error
        is_known = is_named(host, self._private_hosts)
        if not addresses or not (is_known or all(map(self._is_allowed, addresses))):
            raise NetworkError(not_public(host))
        return addresses

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def close(self) -> None:
        """Wait for no look-up any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Known(AbstractResolver):
    """Knows the addresses of the one host that is asked for, and looks nothing up."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """There is nothing to close."""
