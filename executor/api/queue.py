"""The queue: what runs and what waits, and taking things out of it."""

from aiohttp import web

from executor.api import job_log
from executor.api.body import flag, object_body, texts, whole_number
from executor.api.keys import LEDGER, NARRATOR
from executor.api.replies import json_text, text_reply
from executor.api.tokens import scope_of
from executor.api.wire_jobs import MOST_JOBS, NEWEST, item_text


async def queue(request: web.Request) -> web.Response:
    """The jobs that run and wait: the last submitted, or a page of them, next first.

    ``offset`` and ``max_items`` choose the page of those that wait.
    """
    ledger, scope = request.app[LEDGER], scope_of(request)
    offset = whole_number(request, "offset")
    limit = whole_number(request, "max_items", most=MOST_JOBS)
    pending = await ledger.queue(NEWEST if limit is None else limit, offset, scope)
    running = await ledger.running(scope)
    lists = {
        "queue_running": ",".join(map(item_text, running)),
        "queue_pending": ",".join(map(item_text, pending)),
    }
    return text_reply(
        "{" + ",".join(f"{json_text(name)}:[{items}]" for name, items in lists.items()) + "}"
    )


async def change_queue(request: web.Request) -> web.Response:
    """Cancel jobs that wait: all, or those of a list."""
    body = await object_body(request)
    ledger, narrator, scope = request.app[LEDGER], request.app[NARRATOR], scope_of(request)
    ids = texts(body, "delete")
    if flag(body, "clear"):
        before = await ledger.newest_seq()
        job_log.cleared(await ledger.clear_queue(scope))
        await narrator.queue_cleared(before, scope)
    elif ids:
        events = await ledger.cancel(ids, scope)
        job_log.given_up(events)
        narrator.given_up(events)
    return web.Response()


routes = [web.get("/queue", queue), web.post("/queue", change_queue)]
