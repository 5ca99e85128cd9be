"""What clients of ComfyUI's protocol wait for, against any server that speaks it.

Requests come from this process, which shares the machine with the server where that is near; wall
times are therefore upper bounds on a busy machine.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, TypeAlias
from uuid import uuid4

import aiohttp

from .graphs import chain, fan

Row: TypeAlias = Callable[[str, str, str], None]
"""Takes what was measured, the figure, and what it should be."""


class Client:
    """One client of the protocol: a session, and the server's address."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def submit(self, prompt: dict[str, Any], client_id: str = "") -> float:
        """Seconds until the job is acknowledged."""
        body = {"prompt": prompt, "client_id": client_id}
        began = perf_counter()
        async with self.session.post(f"{self.url}/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        return perf_counter() - began

    async def until_finished(self, prompt: dict[str, Any]) -> float:
        """Seconds from submitting to the message that nothing runs any more."""
        client_id = uuid4().hex
        async with self.session.ws_connect(f"{self.url}/ws?clientId={client_id}") as socket:
            await socket.receive()  # the status that greets
            return await self.finished(socket, client_id, prompt)

    async def finished(
        self, socket: aiohttp.ClientWebSocketResponse, client_id: str, prompt: dict[str, Any]
    ) -> float:
        """The same on a socket that is open already."""
        began = perf_counter()
        await self.submit(prompt, client_id)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                told = json.loads(message.data)
                if told["type"] == "executing" and told["data"]["node"] is None:
                    break
        return perf_counter() - began

    async def get(self, path: str) -> float:
        """Seconds that a request takes."""
        began = perf_counter()
        async with self.session.get(self.url + path) as answer:
            await answer.read()
        return perf_counter() - began


def trivial(value: int) -> dict[str, Any]:
    """Three nodes that nobody has run before."""
    return chain(3, value)


async def _open_loop(client: Client, per_second: int, seconds: float) -> list[float]:
    """Submit at a steady rate, whether answers come or not; the latencies."""
    tasks: list[asyncio.Task[float]] = []
    began = perf_counter()
    for i in range(int(per_second * seconds)):
        await asyncio.sleep(max(0.0, began + i / per_second - perf_counter()))
        tasks.append(asyncio.create_task(client.submit(trivial(i + 1_000_000))))
    return list(await asyncio.gather(*tasks))


async def _closed_loop(client: Client, clients: int, each: int) -> tuple[float, list[float]]:
    """Clients that submit the next job when the last has ended: jobs a second, latencies."""

    async def one(number: int) -> list[float]:
        client_id = uuid4().hex
        async with client.session.ws_connect(f"{client.url}/ws?clientId={client_id}") as socket:
            await socket.receive()
            return [
                await client.finished(socket, client_id, trivial(number * 100_000 + i))
                for i in range(each)
            ]

    began = perf_counter()
    found = await asyncio.gather(*(one(number + 1) for number in range(clients)))
    latencies = [latency for one_client in found for latency in one_client]
    return clients * each / (perf_counter() - began), latencies


def quantile(values: list[float], q: float) -> float:
    """The value below which the part ``q`` of them lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


async def measure(url: str, row: Row, lengths: tuple[int, ...] = (1_000, 5_000)) -> None:
    """Measure a server that has the nodes of ``graphs``."""
    connector = aiohttp.TCPConnector(limit=32)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as many,
    ):
        client, crowd = Client(session, url), Client(many, url)
        await client.until_finished(trivial(-1))  # the worker is up
        posts = await _open_loop(client, 500, 4)
        row("POST /prompt, 500/s offered, p99", ms(quantile(posts, 0.99)), "≤ 25 ms")
        row("POST /prompt, 500/s offered, p50", ms(quantile(posts, 0.5)), "")
        await client.until_finished(trivial(-2))  # the queue is empty again
        rate, waits = await _closed_loop(crowd, 64, 20)
        row("64 clients in a closed loop", f"{rate:.0f} jobs/s", "≥ 500/s")
        row("64 clients, submit to end, p50", ms(quantile(waits, 0.5)), "")
        for shape in (chain, fan):
            for length in lengths:
                await _graph(client, shape, length, row)
        again = [await client.until_finished(trivial(-1)) for _ in range(50)]
        row("a fully cached workflow, median", ms(quantile(again, 0.5)), "≤ 5 ms")
        await _while_busy(client, crowd, row)
        await _idle(crowd, client, row)


async def _graph(
    client: Client, shape: Callable[[int, int], dict[str, Any]], length: int, row: Row
) -> None:
    """What a graph of many nodes takes, new and again."""
    name, prompt = f"{shape.__name__} of {length} nodes", shape(length, 7)
    targets = ("≤ 150 ms", "≤ 80 ms") if length == 1_000 else ("", "")
    try:
        cold = await client.until_finished(prompt)
        cached = min([await client.until_finished(prompt) for _ in range(3)])
    except AssertionError:
        row(name, "refused", "")
        return
    row(f"{name}, cold", ms(cold), targets[0])
    row(f"{name}, cached", ms(cached), targets[1])


async def _while_busy(client: Client, crowd: Client, row: Row) -> None:
    """What a GET takes while the worker has more than it can do."""
    load = asyncio.create_task(_closed_loop(crowd, 8, 100))
    gets: list[float] = []
    while not load.done():
        for path in ("/prompt", "/queue", "/history?max_items=10", "/object_info/KSampler"):
            gets.append(await client.get(path))
        await asyncio.sleep(0.01)
    await load
    row("GET while the worker is saturated, p99", ms(quantile(gets, 0.99)), "≤ 20 ms")


async def _idle(crowd: Client, client: Client, row: Row) -> None:
    """What a cached job takes with 1,000 websockets open that do nothing."""
    connect: Callable[[int], Awaitable[Any]] = lambda n: crowd.session.ws_connect(  # noqa: E731
        f"{crowd.url}/ws?clientId=idle{n}"
    )
    sockets = await asyncio.gather(*map(connect, range(1_000)))
    again = [await client.until_finished(trivial(-1)) for _ in range(20)]
    row("the same beside 1,000 idle websockets", ms(quantile(again, 0.5)), "")
    await asyncio.gather(*(socket.close() for socket in sockets))


def ms(seconds: float) -> str:
    """For a table."""
    return f"{1e3 * seconds:.1f} ms"
