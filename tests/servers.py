"""A whole server in the test's process: the real application, ledger, dispatcher and worker.

The worker is the real one too, at the other end of a real pair of sockets, but a thread: a process
would import torch for seconds. Nodes are ``toy_nodes``, and one that waits for the test.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import toy_nodes
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer

from executor import Context, Node
from executor.api.app import create_app
from executor.dispatch import Dispatcher
from executor.fabric.local import LocalWorker
from executor.fabric.messages import FromWorker, Hello, Stop, framed
from executor.ledger import Ledger, State, open_ledger
from executor.paths import Folders
from executor.plugins import Plugin
from executor.settings import Settings
from executor.worker import Stream, Worker

assert toy_nodes.ToyNumber in Node.registry.values(), "importing them registers them"

GATES: dict[str, threading.Event] = {}
"""What ``ToyWait`` waits for, by name."""


class ToyWait(Node, category="testing", is_output=True):
    """Keep the worker busy until the test lets it go."""

    name: str
    a: int = 0

    def run(self, ctx: Context) -> None:
        assert GATES.setdefault(self.name, threading.Event()).wait(30), "nobody opened the gate"


class ThreadWorker:
    """The process of a ``LocalWorker``, as a thread."""

    pid, returncode = 0, None

    def __init__(self, settings: Settings, theirs: socket.socket, capacity: int) -> None:
        self._settings, self._connection, self._capacity = settings, theirs, capacity
        self._ended = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self.worker: Worker | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, message: FromWorker) -> None:
        """Have the worker say something."""
        assert self.worker
        self.worker.stream.say(message)

    async def wait(self) -> int:
        return await self._ended

    def kill(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        stream = Stream(self._connection, on_gone=self._give_up)
        stream.begin()
        worker = self.worker = Worker(stream, self._settings)
        worker._capacity = lambda: self._capacity
        worker.run()
        self._end(0)

    def _give_up(self) -> None:
        if self.worker is not None:
            self.worker.engine.jobs.clear()
            self.worker.stream.incoming.put(Stop())
        self._end(-9)

    def _end(self, code: int) -> None:
        def end() -> None:
            if not self._ended.done():
                self._ended.set_result(code)
                with suppress(OSError):  # it may be shut down already
                    self._connection.shutdown(socket.SHUT_RDWR)
                if self.worker:
                    self.worker.stream._outgoing.put(b"?")  # which ends the thread that sends

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(end)


@dataclass
class Served:
    """A server, and a client of it."""

    client: TestClient[web.Request, web.Application]
    app: web.Application
    ledger: Ledger
    dispatcher: Dispatcher
    base: Path
    workers: list[ThreadWorker] = field(default_factory=list)

    async def get(self, path: str, status: int = 200, **more: Any) -> Any:
        """A route's JSON."""
        async with self.client.get(path, **more) as response:
            assert response.status == status, await response.text()
            return json.loads(await response.text(), parse_constant=_no_constant)

    async def post(self, path: str, value: Any = None, status: int = 200, **more: Any) -> Any:
        """The answer to some JSON, or None if it is empty."""
        body = {} if value is None else {"data": json.dumps(value)}
        async with self.client.post(path, **body, **more) as response:
            text = await response.text()
            assert response.status == status, text
            return json.loads(text, parse_constant=_no_constant) if text else None

    async def submit(self, prompt: Any, **more: Any) -> str:
        """Queue a workflow: its id."""
        return (await self.post("/prompt", {"prompt": prompt, **more}))["prompt_id"]

    async def over(self, job_id: str) -> Any:
        """A job's entry in the history, waited for."""
        entry = await self.until(lambda: self.get(f"/history/{job_id}"))
        return entry[job_id]

    async def running(self, job_id: str) -> None:
        """Wait until a worker has a job."""

        async def has_it() -> bool:
            return any(job.id == job_id for job in self.dispatcher.running())

        await self.until(has_it)

    async def state(self, job_id: str) -> State:
        record = await self.ledger.job_record(job_id)
        assert record, f"job {job_id} is lost"
        return record.state

    async def until(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """What asking gives, as soon as it is something."""
        while not (found := await ask()):
            await asyncio.sleep(0.01)
        return found

    def connect(self, client_id: str = "", **more: Any) -> Any:
        """A websocket, as a context."""
        return self.client.ws_connect("/ws", params={"clientId": client_id, **more})


def _no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


async def heard(ws: ClientWebSocketResponse) -> Any:
    """The next message: JSON, or bytes."""
    frame = await ws.receive()
    if frame.type is WSMsgType.TEXT:
        assert frame.data.startswith('{"type":'), "some clients look at the first bytes only"
        return json.loads(frame.data, parse_constant=_no_constant)
    assert frame.type is WSMsgType.BINARY, f"the connection ended: {frame}"
    return frame.data


async def heard_until(ws: ClientWebSocketResponse, type: str, **data: Any) -> list[Any]:
    """All messages up to the first of a type, with such data."""
    told: list[Any] = []
    while True:
        message = await heard(ws)
        told.append(message)
        if not isinstance(message, dict) or message["type"] != type:
            continue
        if all(message["data"].get(name) == value for name, value in data.items()):
            return told


class RealServer(TestServer):
    """As ``server.py`` runs it: what a client asked for is done even if the client goes."""

    async def _make_runner(self, **kwargs: Any) -> web.AppRunner:
        kwargs["handler_cancellation"] = False
        return web.AppRunner(self.app, **kwargs)


@asynccontextmanager
async def serving(
    base: Path,
    plugins: tuple[Plugin, ...] = (),
    *,
    workers: int = 1,
    capacity: int = 4,
    **settings: Any,
) -> AsyncGenerator[Served]:
    """A server that runs until the end of the block; whatever waits is let go then."""
    chosen = Settings(base_directory=base, device="cpu", **settings)
    threads: list[ThreadWorker] = []

    async def spawn() -> LocalWorker:
        ours, theirs = socket.socketpair()
        thread = ThreadWorker(chosen, theirs, capacity)
        threads.append(thread)
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(framed(Hello(chosen, ())))
        return LocalWorker(cast(asyncio.subprocess.Process, thread), reader, writer)

    folders = Folders(chosen)
    async with open_ledger(base / "ledger.sqlite") as ledger:
        await ledger.recover()
        dispatcher = Dispatcher(ledger, folders, {f"cpu:{i}": spawn for i in range(workers)})
        app = create_app(chosen, folders, ledger, dispatcher, plugins)
        async with TestClient(RealServer(app)) as client:
            dispatcher.start()
            dispatcher.wake()
            try:
                yield Served(client, app, ledger, dispatcher, base, threads)
            finally:
                for gate in GATES.values():
                    gate.set()
                GATES.clear()
                await dispatcher.close(grace_s=5)


# Workflows


def sink(value: Any = 4, name: str = "toy") -> dict[str, Any]:
    """A number into a file."""
    return {
        "1": {"class_type": "ToyNumber", "inputs": {"value": value}},
        "2": {"class_type": "ToySink", "inputs": {"value": ["1", 0], "name": name}},
    }


def waiting(gate: str) -> dict[str, Any]:
    """Runs until ``open_gate``."""
    return {"1": {"class_type": "ToyWait", "inputs": {"name": gate}}}


def failing() -> dict[str, Any]:
    """One output that fails, and one that does not depend on it."""
    return {
        **sink(),
        "3": {"class_type": "ToyFail", "inputs": {}},
        "4": {"class_type": "ToySink", "inputs": {"value": ["3", 0], "name": "never"}},
    }


def sampling(steps: int, seed: int = 0) -> dict[str, Any]:
    """A sampler of so many steps."""
    return {
        "1": {"class_type": "ToyLoad", "inputs": {}},
        "2": {
            "class_type": "ToySample",
            "inputs": {"model": ["1", 0], "steps": steps, "seed": seed},
        },
        "3": {"class_type": "ToyKeep", "inputs": {"samples": ["2", 0]}},
    }


def open_gate(name: str) -> None:
    """Let a ``ToyWait`` go."""
    GATES.setdefault(name, threading.Event()).set()
