"""The server under load: what submitting costs, how fast graphs end, who waits while it is busy.

Starts ``server.py`` on a free port with a folder of its own and one CPU worker, whose nodes do
nothing. Requests go over loopback from this process, which shares the machine with the server; wall
times are therefore upper bounds on a busy machine.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import uuid4

import aiohttp

from executor.ledger import NewJob, open_ledger

from .graphs import chain, fan
from .table import show

ROOT = Path(__file__).parents[2]


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


@dataclass(frozen=True, slots=True)
class Started:
    """A server that accepts requests."""

    url: str
    pid: int
    seconds: float  # from its start until it listens

    @property
    def resident_mb(self) -> float:
        """The front's memory, where the system tells."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3


@asynccontextmanager
async def server(base: Path) -> AsyncGenerator[Started]:
    """A server of its own, from when it accepts requests."""
    pack = base / "custom_nodes"
    pack.mkdir(parents=True, exist_ok=True)
    (pack / "bench.py").write_text(_pack())
    environment = os.environ | {
        "WEFT_BASE_DIRECTORY": str(base),
        "WEFT_PORT": "0",
        "WEFT_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    began = perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "server.py")),
        env=environment,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stderr
    url = ""
    while not url:
        line = (await process.stderr.readline()).decode()
        assert line, "the server ended"
        if match := re.search(r"http://\S+", line):
            url = match[0]
    draining = asyncio.create_task(_drain(process.stderr))
    try:
        yield Started(url, process.pid, perf_counter() - began)
    finally:
        process.terminate()
        await process.wait()
        draining.cancel()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


def _pack() -> str:
    """The nodes of ``graphs`` as a pack that the server loads."""
    text = (Path(__file__).with_name("graphs.py")).read_text()
    classes = text[text.index("class BenchNumber") : text.index("def chain")]
    return f"from executor import Context, Node\n\n{classes}"


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


async def _measure(base: Path) -> list[list[object]]:
    rows: list[list[object]] = []

    def row(what: str, figure: str, target: str) -> None:
        rows.append([what, figure, target])

    async with server(base) as started:
        url = started.url
        row("server accepts requests", f"{started.seconds:.2f} s", "≤ 1 s")
        connector = aiohttp.TCPConnector(limit=32)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as many,
        ):
            client, crowd = Client(session, url), Client(many, url)
            await client.until_finished(trivial(-1))  # the worker is up
            posts = await _open_loop(client, 500, 4)
            row("POST /prompt, 500/s offered, p99", _ms(quantile(posts, 0.99)), "≤ 25 ms")
            row("POST /prompt, 500/s offered, p50", _ms(quantile(posts, 0.5)), "")
            await client.until_finished(trivial(-2))  # the queue is empty again
            rate, waits = await _closed_loop(crowd, 64, 20)
            row("64 clients in a closed loop", f"{rate:.0f} jobs/s", "≥ 500/s")
            row("64 clients, submit to end, p50", _ms(quantile(waits, 0.5)), "")
            for shape in (chain, fan):
                name = shape.__name__
                for length in (1_000, 5_000):
                    prompt = shape(length, 7)
                    cold = await client.until_finished(prompt)
                    cached = min([await client.until_finished(prompt) for _ in range(3)])
                    targets = ("≤ 150 ms", "≤ 80 ms") if length == 1_000 else ("", "")
                    row(f"{name} of {length} nodes, cold", _ms(cold), targets[0])
                    row(f"{name} of {length} nodes, cached", _ms(cached), targets[1])
            again = [await client.until_finished(trivial(-1)) for _ in range(50)]
            row("a fully cached workflow, median", _ms(quantile(again, 0.5)), "≤ 5 ms")
            await _while_busy(client, crowd, row)
            await _idle(crowd, client, row)
    await _full_queue(base / "full", row)
    return rows


async def _full_queue(base: Path, row: Callable[[str, str, str], None]) -> None:
    """How a server starts on 100,000 queued jobs."""
    async with open_ledger(base / "user" / "weft.sqlite") as ledger:
        for thousand in range(100):
            jobs = (NewJob(prompt=json.dumps(trivial(1000 * thousand + i))) for i in range(1000))
            await asyncio.gather(*map(ledger.submit, jobs))
    async with server(base) as started:
        row("restart with 100,000 queued jobs", f"{started.seconds:.2f} s", "≤ 3 s")
        async with aiohttp.ClientSession() as session:
            client = Client(session, started.url)
            row("GET /queue then", _ms(min([await client.get("/queue") for _ in range(5)])), "")
        row("the front's memory then", f"{started.resident_mb:.0f} MB", "≤ 400 MB")


async def _while_busy(client: Client, crowd: Client, row: Callable[[str, str, str], None]) -> None:
    """What a GET takes while the worker has more than it can do."""
    load = asyncio.create_task(_closed_loop(crowd, 8, 100))
    gets: list[float] = []
    while not load.done():
        for path in ("/prompt", "/queue", "/history?max_items=10", "/object_info/KSampler"):
            gets.append(await client.get(path))
        await asyncio.sleep(0.01)
    await load
    row("GET while the worker is saturated, p99", _ms(quantile(gets, 0.99)), "≤ 20 ms")


async def _idle(crowd: Client, client: Client, row: Callable[[str, str, str], None]) -> None:
    """What a cached job takes with 1,000 websockets open that do nothing."""
    connect: Callable[[int], Awaitable[Any]] = lambda n: crowd.session.ws_connect(  # noqa: E731
        f"{crowd.url}/ws?clientId=idle{n}"
    )
    sockets = await asyncio.gather(*map(connect, range(1_000)))
    again = [await client.until_finished(trivial(-1)) for _ in range(20)]
    row("the same beside 1,000 idle websockets", _ms(quantile(again, 0.5)), "")
    await asyncio.gather(*(socket.close() for socket in sockets))


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


def main() -> None:
    """Print the figures beside what they should be."""
    with TemporaryDirectory() as folder:
        rows = asyncio.run(_measure(Path(folder)))
    show("The server over loopback, trivial nodes", ("what", "measured", "target"), rows)
