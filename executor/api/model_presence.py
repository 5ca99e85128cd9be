"""Notes when workers take jobs and which checkpoints' files are there, for their history."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, suppress
from itertools import count

from aiohttp import web

from executor.api.keys import DISPATCHER, FOLDERS, LEDGER
from executor.dispatch import Dispatcher
from executor.errors import LedgerError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
PRUNE_EVERY = 60  # looks


async def watching(app: web.Application) -> AsyncGenerator[None]:
    """Look once a minute and whenever a worker comes or goes, as long as the application runs."""
    dispatcher = app[DISPATCHER]
    changes: asyncio.Queue[list[str]] = asyncio.Queue()
    # As it is then: a worker that is back before it is noted that it went was away all the same.
    dispatcher.presence_changed = lambda: changes.put_nowait(_ready(dispatcher))
    looking = asyncio.create_task(_look(app, changes))
    yield
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    with suppress(LedgerError):  # which has been said, and whoever ends the server goes on
        for kind in ("worker", "checkpoint"):
            await app[LEDGER].see(kind, ())


async def _look(app: web.Application, changes: "asyncio.Queue[list[str]]") -> None:
    ledger = app[LEDGER]
    with _said():
        await ledger.see_anew()
    for look in count():
        with _said():
            await ledger.see("worker", _ready(app[DISPATCHER]))
            names = await asyncio.to_thread(app[FOLDERS].names, "checkpoints")
            await ledger.see("checkpoint", names)
            if look % PRUNE_EVERY == 0:
                await ledger.prune_figures()
        with suppress(TimeoutError), _said():
            async with asyncio.timeout(LOOK_EVERY_S):
                while True:
                    await ledger.see("worker", await changes.get())


def _ready(dispatcher: Dispatcher) -> list[str]:
    return [seat.name for seat in dispatcher.seats if seat.ready]


@contextmanager
def _said() -> Generator[None]:
    """Go on where the ledger cannot be written: a full disk may have room later."""
    try:
        yield
    except LedgerError as error:
        log.error("what is there cannot be noted: %s", error)
