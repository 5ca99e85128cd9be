"""What the faces for applications add to a request, against the same job submitted plainly.

Everything is in the cache after the first time, so that what is left is the server's own work.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import uuid4

import aiohttp

from .client import Client, ms, quantile, trivial
from .server import server
from .table import show

TIMES = 60
CONCURRENT = 200

PICTURE = {"prompt": "a red circle", "seed": 1, "steps": 2, "size": "64x64"}


async def _median(run: Callable[[], Awaitable[Any]]) -> float:
    """Seconds that something takes, the first time not counted."""
    await run()
    seconds: list[float] = []
    for _ in range(TIMES):
        began = perf_counter()
        await run()
        seconds.append(perf_counter() - began)
    return quantile(seconds, 0.5)


async def _measure(base: Path, row: Callable[[str, str, str], None]) -> None:
    async with (
        server(base) as started,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        client, client_id = Client(session, started.url), uuid4().hex
        socket = await session.ws_connect(f"{started.url}/ws?clientId={client_id}")
        await socket.receive()  # the status that greets

        async def post(path: str, body: Any) -> Any:
            async with session.post(started.url + path, json=body) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

        async def made_plainly(prompt: dict[str, Any]) -> None:
            await client.finished(socket, client_id, prompt)

        job = {"input": {"workflow": trivial(-1)}}
        plain = await _median(lambda: made_plainly(trivial(-1)))
        through_jobs = await _median(lambda: post("/runsync", job))
        row("a cached workflow over the websocket", ms(plain), "")
        row("the same with /runsync: added", ms(through_jobs - plain), "≤ 3 ms")
        first = await post("/v1/images/generations", PICTURE)
        assert first["data"]
        (workflow,) = await _workflows(session, started.url)
        plain = await _median(lambda: made_plainly(workflow))
        through_images = await _median(lambda: post("/v1/images/generations", PICTURE))
        row("a cached picture over the websocket", ms(plain), "")
        row("the same with /v1/images/generations: added", ms(through_images - plain), "≤ 3 ms")
        began = perf_counter()
        jobs = [{"input": {"workflow": trivial(value)}} for value in range(CONCURRENT)]
        answers = await asyncio.gather(*(post("/runsync", job) for job in jobs))
        done = sum(answer["status"] == "COMPLETED" for answer in answers)
        seconds = perf_counter() - began
        row(f"{CONCURRENT} times /runsync at once: completed", f"{done}", f"{CONCURRENT}")
        row(f"{CONCURRENT} times /runsync at once", ms(seconds), "")
        await socket.close()


async def _workflows(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """The workflow of the last job."""
    async with session.get(f"{url}/history?max_items=1") as answer:
        return [entry["prompt"][2] for entry in (await answer.json()).values()]


def main() -> None:
    """Print the figures beside what they should be."""
    rows: list[list[object]] = []
    with TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder), lambda *cells: rows.append(list(cells))))
    show("The faces for applications, over loopback", ("what", "measured", "target"), rows)
