"""What waits to be sent to one client: bounded, and never waited for by anybody else.

While the client reads, it gets everything. When it falls behind, previews go first, of progress
only the newest stays, and what is durable is kept; one that is too slow even for that has lost.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import Literal

CROWDED_MESSAGES = 256
"""From here on a client is behind: a second of a busy job. A graph of thousands of trivial nodes
ends so many between two looks at the socket that nobody could tell them apart."""

CROWDED_BYTES = 2 * 2**20
"""Some dozen previews."""

MAX_BYTES = 8 * 2**20
"""Durable messages are some hundred bytes each: tens of thousands of them."""

MAX_RESULT_BYTES = 256 * 2**20
"""Pictures that a client waits for: a hundred large ones."""

BATCH_BYTES = 64 * 2**10
"""What is taken together; it is out of reach of newer messages then."""

_OVERHEAD_BYTES = 200  # of a waiting message, beside its payload


class Rank(IntEnum):
    """What is given up first."""

    PREVIEW = 0
    PROGRESS = 1
    DURABLE = 2


@dataclass(frozen=True, slots=True)
class Message:
    """One frame for a websocket: text, or bytes."""

    payload: str | bytes
    rank: Rank = Rank.DURABLE
    key: Hashable = None
    """A newer message of the same key takes the place of one that still waits."""
    crowd_key: Hashable = None
    """The key when the client is behind, if it is another one."""
    seq: int | None = None
    """The number of the durable event that it tells of."""
    is_result: bool = False
    """It is what the client wants of its job: large, and no reason to leave anything else out."""

    @property
    def size_bytes(self) -> int:
        return len(self.payload) + _OVERHEAD_BYTES


class Outbox:
    """Messages in the order in which they are to be sent."""

    def __init__(self) -> None:
        self.is_overrun = False
        """The client was too slow, and nothing more is kept for it."""
        self._waiting: OrderedDict[Hashable, Message] = OrderedDict()
        self._bytes = self._result_bytes = 0
        self._is_crowded = False
        self._is_held = False
        self._numbers = count()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Message) -> None:
        """Add a message behind the others."""
        if self.is_overrun or (self._is_crowded and message.rank is Rank.PREVIEW):
            return
        self._add(message)
        if not self._is_crowded and (
            len(self._waiting) > CROWDED_MESSAGES or self._bytes > CROWDED_BYTES
        ):
            self._thin_out()
        if self._bytes > MAX_BYTES or self._result_bytes > MAX_RESULT_BYTES:
            self.is_overrun = True
            self._waiting.clear()
        if not self._is_held:
            self._news.set()

    def hold(self) -> None:
        """Collect, but give nothing out until ``release``."""
        self._is_held = True
        self._news.clear()

    def release(self, *, after: int = 0) -> None:
        """Give out what was collected, without events up to number ``after``."""
        told = [k for k, m in self._waiting.items() if m.seq is not None and m.seq <= after]
        for key in told:
            self._count(self._waiting.pop(key), -1)
        self._is_held = False
        self._news.set()

    async def take(self) -> list[Message]:
        """The next messages, some kilobytes together, waited for."""
        while self._is_held or not self._waiting:
            self._news.clear()
            await self._news.wait()
        taken: list[Message] = []
        taken_bytes = 0
        while self._waiting and taken_bytes < BATCH_BYTES:
            _, message = self._waiting.popitem(last=False)
            taken.append(message)
            taken_bytes += message.size_bytes
            self._count(message, -1)
        if not self._waiting:
            self._is_crowded = False
        return taken

    def _add(self, message: Message) -> None:
        key = (message.crowd_key if self._is_crowded else None) or message.key
        if key is None:
            key = next(self._numbers)
        older = self._waiting.pop(key, None)
        if older is not None:
            self._count(older, -1)
        self._waiting[key] = message
        self._count(message, 1)

    def _count(self, message: Message, sign: Literal[1, -1]) -> None:
        """Note that a message has come, or is gone."""
        if message.is_result:
            self._result_bytes += sign * message.size_bytes
        else:
            self._bytes += sign * message.size_bytes

    def _thin_out(self) -> None:
        """The client has fallen behind: keep what it cannot do without."""
        self._is_crowded = True
        messages = list(self._waiting.values())
        self._waiting.clear()
        self._bytes = self._result_bytes = 0
        for message in messages:
            if message.rank is not Rank.PREVIEW:
                self._add(message)
