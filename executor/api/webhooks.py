"""Ends of jobs, told by a POST to whoever asked for that when the job was submitted.

What is to be told is in the ledger from the moment that the job is, until somebody has answered
with a 2xx: a restart forgets none, and one may be told twice, under the same id. The body is made
anew each time, so that addresses in it are good. What cannot be told now is tried again after
growing pauses. Nobody waits for another's slow host: not all that is sent at a time goes to one
host, or is one owner's.
"""

import asyncio
import hmac
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from time import time
from typing import TypeAlias

from aiohttp import web

from executor.api.keys import DISPATCHER
from executor.api.outside import Outside
from executor.api.signing import base_url_of
from executor.dispatch import Happening
from executor.errors import LedgerError, NetworkError
from executor.events import Ended
from executor.ledger import DueHook, FullJob, JobEvent, Ledger, NewHook
from executor.logs import about
from executor.seats import Running
from executor.secret import Secret
from executor.settings import Settings

log = logging.getLogger(__name__)

Renderer: TypeAlias = Callable[[web.Application, FullJob, str], Awaitable[str]]
"""The body for the end of a job, as JSON. The text is where its client finds this server."""

PAUSES_S = (10.0, 30.0, 120.0, 600.0, 3600.0)
"""Before it is tried again, each time; then it is given up."""

LOOK_EVERY_S = 1.0
"""For ends of jobs that no worker had, and pauses that are over."""

AT_ONCE, MOST_OF_AN_OWNER, MOST_TO_A_HOST = 64, 32, 8


class Webhooks:
    """What is told now, and what is still to be."""

    def __init__(
        self,
        ledger: Ledger,
        outside: Outside,
        secret: Secret,
        renderers: Mapping[str, Renderer],
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self._ledger, self._outside, self._secret = ledger, outside, secret
        self._renderers, self._pauses_s = renderers, pauses_s
        self._telling: dict[str, tuple[DueHook, asyncio.Task[None]]] = {}
        self._news = asyncio.Event()

    def new(self, url: str, renderer: str, base_url: str) -> NewHook:
        """A hook for a job that is about to be submitted. Raises NetworkError for a URL that
        nothing will be sent to."""
        assert renderer in self._renderers, f"{renderer} is none of {list(self._renderers)}"
        checked = self._outside.checked(url)
        return NewHook(url, checked.raw_host or "", renderer, base_url)

    def wake(self) -> None:
        """Something may be due."""
        self._news.set()

    def hear(self, job: Running, happening: Happening, kept: JobEvent | None) -> None:
        """The dispatcher tells what happens."""
        if isinstance(happening, Ended):
            self.wake()

    async def run(self, app: web.Application) -> None:
        """Tell what is due, until cancelled; what is being told then stays due."""
        try:
            while True:
                self._news.clear()
                try:
                    await self._begin(app)
                except LedgerError as error:
                    log.error("webhooks: %s", error)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK_EVERY_S)
        finally:
            tasks = [task for _, task in self._telling.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._outside.close()

    async def _begin(self, app: web.Application) -> None:
        """Begin to tell as much as may be told at a time."""
        while (room := AT_ONCE - len(self._telling)) > 0:
            owners = Counter(hook.owner for hook, _ in self._telling.values())
            hosts = Counter(hook.host for hook, _ in self._telling.values())
            due = await self._ledger.due_hooks(
                room,
                apart_from=self._telling,
                owners=[owner for owner, count in owners.items() if count >= MOST_OF_AN_OWNER],
                hosts=[host for host, count in hosts.items() if count >= MOST_TO_A_HOST],
            )
            for hook in due:
                owners[hook.owner] += 1
                hosts[hook.host] += 1
                if owners[hook.owner] <= MOST_OF_AN_OWNER and hosts[hook.host] <= MOST_TO_A_HOST:
                    self._telling[hook.id] = hook, asyncio.create_task(self._tell(app, hook))
            if not due:
                return

    async def _tell(self, app: web.Application, hook: DueHook) -> None:
        """Tell one end, and note how that went."""
        try:
            await self._note(hook, await self._fault(app, hook))
        except LedgerError as error:  # nothing was noted, so it would be told again at once
            log.error("webhook %s: %s", hook.id, error, extra=about(job=hook.job_id))
            await asyncio.sleep(self._pauses_s[0])
        finally:
            del self._telling[hook.id]
            self.wake()

    async def _fault(self, app: web.Application, hook: DueHook) -> str:
        """Tell one end: why that was in vain, or nothing."""
        job = await self._ledger.job(hook.job_id)
        renderer = self._renderers.get(hook.renderer)
        if job is None or renderer is None:  # deleted meanwhile; of a face that is gone
            return ""
        try:
            await self._post(hook, (await renderer(app, job, hook.base_url)).encode())
        except NetworkError as error:
            return str(error)
        except Exception as error:  # of one renderer, or one job: the others are told
            log.error("webhook %s", hook.id, exc_info=error, extra=about(job=hook.job_id))
            return "its body could not be made"
        return ""

    async def _post(self, hook: DueHook, body: bytes) -> None:
        """Send it. Raises NetworkError unless it was taken."""
        url = self._outside.checked(hook.url)
        headers = {
            "Content-Type": "application/json",
            "X-Weft-Id": hook.id,
            "X-Weft-Signature": signature(self._secret.for_webhooks(hook.owner), int(time()), body),
        }
        async with self._outside.asking("POST", url, headers=headers, body=body) as response:
            if not 200 <= response.status < 300:
                raise NetworkError(f"{url.raw_host} answered with {response.status}")

    async def _note(self, hook: DueHook, fault: str) -> None:
        """Have it told again later, or no more."""
        extra = about(job=hook.job_id, owner=hook.owner)
        if fault and hook.tries < len(self._pauses_s):
            pause_s = self._pauses_s[hook.tries]
            log.warning("webhook: %s; again in %g s", fault, pause_s, extra=extra)
            await self._ledger.hook_failed(hook.id, pause_s)
            return
        if fault:
            log.error("webhook: %s; given up", fault, extra=extra)
        else:
            log.info("webhook told", extra=extra)
        await self._ledger.hook_told(hook.id)


WEBHOOKS: web.AppKey[Webhooks] = web.AppKey("webhooks", Webhooks)


def register(request: web.Request, url: str, renderer: str) -> NewHook:
    """A hook for a job that this request is about to submit (``queue_job``).

    Raises NetworkError for a URL that nothing will be sent to.
    """
    return request.app[WEBHOOKS].new(url, renderer, base_url_of(request))


def outside_for_webhooks(settings: Settings) -> Outside:
    """The door for webhooks."""
    return Outside(
        ports=settings.outside_ports, private_hosts=settings.webhook_hosts, at_once=AT_ONCE
    )


def signature(secret: str, time_s: int, body: bytes) -> str:
    """What proves to whoever knows the secret that a body is ours, and of when."""
    signed = b"%d.%s" % (time_s, body)
    return f"t={time_s},v1={hmac.digest(secret.encode(), signed, 'sha256').hex()}"


async def telling(app: web.Application) -> AsyncGenerator[None]:
    """Tell ends of jobs, as long as the application runs."""
    webhooks, watchers = app[WEBHOOKS], app[DISPATCHER].watchers
    watchers.append(webhooks.hear)
    task = asyncio.create_task(webhooks.run(app))
    task.add_done_callback(_say_fault)
    yield
    watchers.remove(webhooks.hear)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _say_fault(task: asyncio.Task[None]) -> None:
    """Nothing is told any more, which somebody should know."""
    if not task.cancelled() and (error := task.exception()):
        log.critical("webhooks: %s", error, exc_info=error)
