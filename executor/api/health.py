"""Whether the server lives, and whether it can do what it is for: what a supervisor asks.

``/livez`` says no more than that the event loop turns: whoever gets no answer may restart the
process. ``/readyz`` is for whoever sends jobs: it says what is missing while there is something.
"""

import asyncio
from typing import Any

from aiohttp import web

from executor.api.keys import DISPATCHER, LEDGER
from executor.api.replies import json_reply
from executor.errors import LedgerError
from executor.ledger import Ledger

LEDGER_S = 2.0
"""A ledger that answers a count takes a millisecond; supervisors ask again after some seconds."""


async def livez(request: web.Request) -> web.Response:
    """The server runs."""
    return json_reply({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """Whether jobs are kept and run: 200, or 503 with what does not work.

    The ledger must answer, one worker at least must take jobs, and the server must not be about to
    end. Workers need some seconds after the start; jobs may be submitted meanwhile, and wait.
    """
    dispatcher = request.app[DISPATCHER]
    ledger = await _fault_of_ledger(request.app[LEDGER])
    workers = {seat.name: seat.ready is not None for seat in dispatcher.seats}
    is_ready = ledger is None and any(workers.values()) and not dispatcher.is_closing
    answer: dict[str, Any] = {
        "status": "stopping" if dispatcher.is_closing else "ok" if is_ready else "unavailable",
        "ledger": ledger or "ok",
        "workers": {name: "ok" if is_up else "not ready" for name, is_up in workers.items()},
    }
    return json_reply(answer, status=200 if is_ready else 503)


async def _fault_of_ledger(ledger: Ledger) -> str | None:
    """Why the ledger cannot be asked, or nothing."""
    try:
        async with asyncio.timeout(LEDGER_S):
            await ledger.counts()
    except TimeoutError:
        return f"no answer within {LEDGER_S:g} s"
    except LedgerError as error:
        return str(error)
    return None


routes = [web.get("/livez", livez), web.get("/readyz", readyz)]
"""Both are below ``/api`` too, as every route."""
