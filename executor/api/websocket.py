"""The websocket: what a client is told, and the little that it may say.

A client may say ``feature_flags``, as the official frontend does, and ``{"type": "replay",
"data": {"since": N}}``: it is then sent all durable events of its jobs after number N, and
``{"type": "replayed", "data": {"since", "seq"}}`` behind them; connecting with ``?since=N`` does
the same. Each durable message has its number as ``seq``. Nothing else that a client says is heard.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, cast
from uuid import uuid4

from aiohttp import WSCloseCode, WSMsgType, web

from executor.api import messages
from executor.api.body import whole_number
from executor.api.features import ANNOUNCED
from executor.api.frames import send
from executor.api.hub import Socket
from executor.api.keys import HUB, IS_ANSWERING, LEDGER, NARRATOR
from executor.api.outbox import Message
from executor.api.refusal import Refusal
from executor.api.tokens import is_still_known, scope_of
from executor.ledger.records import name_fault

MAX_FRAME_BYTES = 64 * 2**10
"""Clients say next to nothing; the feature flags of the newest frontend are some hundred bytes."""

BURST, PER_S = 100, 20
"""Messages that a client may send at once, and then in each second."""

REPLAY_PAGE = 1_000

FAREWELL_S = 2.0
"""For clients to answer when the server stops; it waits no longer for those that do not."""


async def websocket(request: web.Request) -> web.StreamResponse:
    """Stay with a client until it goes."""
    client_id = request.query.get("clientId", "")
    if fault := name_fault(client_id):
        raise Refusal(400, "bad_request", f"clientId {fault}")
    since = whole_number(request, "since")
    ws = web.WebSocketResponse(max_msg_size=MAX_FRAME_BYTES, compress=False)
    if not ws.can_prepare(request):
        raise Refusal(400, "not_a_websocket", "this route is for websockets: ask for an upgrade")
    request[IS_ANSWERING] = True
    leave = partial(ws.close, code=WSCloseCode.GOING_AWAY, message=b"the server stops")
    socket = Socket(client_id or uuid4().hex, _drop(request), leave, scope_of(request))
    # Before the client can know that it is connected: it misses nothing of what it submits then.
    socket.outbox.hold()
    request.app[HUB].add(socket)
    try:
        await ws.prepare(request)
        await _Conversation(request, ws, socket).run(since)
    finally:
        request.app[HUB].remove(socket)
    return ws


def _drop(request: web.Request) -> Callable[[], None]:
    """Cut a connection whose client does not read; to say goodbye would mean to wait for it."""

    def drop() -> None:
        if request.transport is not None:
            request.transport.abort()

    return drop


class _Conversation:
    """One websocket from its opening to its end."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse, socket: Socket) -> None:
        assert request.transport is not None, "the socket was just opened"
        self.app, self.request, self.transport = request.app, request, request.transport
        self.ws, self.socket = ws, socket
        self._tokens, self._counted_at = float(BURST), monotonic()

    async def run(self, since: int | None) -> None:
        """Greet, then talk and listen."""
        sender = asyncio.create_task(self._send())
        try:
            for text in await self.app[NARRATOR].greeting(self.socket):
                await self.ws.send_str(text)
            if since is not None:
                await self._replay(since)
            self.socket.outbox.release()
            async for frame in self.ws:
                if not self._may_speak():
                    words = b"too many messages"
                    await self.ws.close(code=WSCloseCode.POLICY_VIOLATION, message=words)
                elif frame.type is WSMsgType.TEXT:
                    await self._hear(frame.data)
        except ConnectionError:
            pass  # the client is gone, which is no fault
        finally:
            sender.cancel()

    async def _send(self) -> None:
        """Send what is posted, in order, as fast as the client reads."""
        with suppress(ConnectionError):
            while not self.ws.closed:
                taken = await self.socket.outbox.take()
                if not is_still_known(self.request):
                    words = b"the token was removed, or one is needed now"
                    await self.ws.close(code=WSCloseCode.POLICY_VIOLATION, message=words)
                    return
                await send(self.transport, [message.payload for message in taken])

    def _may_speak(self) -> bool:
        """Count a message; false if there were too many."""
        now = monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._counted_at) * PER_S) - 1
        self._counted_at = now
        return self._tokens >= 0

    async def _hear(self, text: str) -> None:
        """Do what a message asks for; one that makes no sense asks for nothing."""
        try:
            message: Any = json.loads(text)
        except (ValueError, RecursionError):
            return
        match message:
            case {"type": "feature_flags", "data": dict(flags)}:
                known = cast("dict[str, Any]", flags)
                self.socket.takes_preview_metadata = known.get("supports_preview_metadata") is True
                answer = messages.message_text("feature_flags", ANNOUNCED)
                self.socket.post(Message(answer))
            case {"type": "replay", "data": {"since": int(since)}} if since >= 0:
                self.socket.outbox.hold()
                await self._replay(since)
            case _:
                pass

    async def _replay(self, since: int) -> None:
        """Send all that the client missed, while what happens now waits its turn."""
        self.socket.follows_numbers = True
        ledger = self.app[LEDGER]
        last = since
        while True:
            events = await ledger.events_of_client(
                self.socket.client_id, last, REPLAY_PAGE, owner=self.socket.scope
            )
            for event in events:
                await self.ws.send_str(messages.message_text(*messages.rendered(event), event.seq))
                last = event.seq
            if len(events) < REPLAY_PAGE:
                break
        await self.ws.send_str(messages.message_text("replayed", {"since": since, "seq": last}))
        self.socket.outbox.release(after=last)


async def close_websockets(app: web.Application) -> None:
    """Say goodbye to everybody: the server goes."""
    farewells = [asyncio.ensure_future(socket.leave()) for socket in app[HUB]]
    if farewells:
        await asyncio.wait(farewells, timeout=FAREWELL_S)


routes = [web.get("/ws", websocket)]
