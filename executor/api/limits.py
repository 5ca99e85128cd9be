"""How many requests a minute a token may make: a bucket that fills again as time passes.

Held by this process only, so that a restart fills all of them. How many jobs may wait is the
ledger's to say, when one is submitted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from time import monotonic

from aiohttp import web

from executor.api.access_log import Handler
from executor.api.refusal import Refusal
from executor.api.tokens import caller_of


@dataclass(slots=True)
class _Bucket:
    """Requests that may be made at once."""

    most: int
    left: float
    at_s: float


class Limits:
    """The buckets of all tokens that have a limit."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def wait_s(self, name: str, per_minute: int) -> float:
        """Count a request: 0 if it may be made, else after how many seconds it may."""
        now = self._clock()
        bucket = self._buckets.get(name)
        if bucket is None or bucket.most != per_minute:
            bucket = self._buckets[name] = _Bucket(per_minute, per_minute, now)
        passed_s, bucket.at_s = now - bucket.at_s, now
        bucket.left = min(bucket.most, bucket.left + passed_s * per_minute / 60)
        if bucket.left < 1:
            return (1 - bucket.left) * 60 / per_minute
        bucket.left -= 1
        return 0


LIMITS: web.AppKey[Limits] = web.AppKey("limits", Limits)


@web.middleware
async def limit_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what is beyond a token's limit."""
    token = caller_of(request).token
    if token is not None and token.requests_per_minute is not None:
        wait_s = request.app[LIMITS].wait_s(token.name, token.requests_per_minute)
        if wait_s:
            words = f"the token may make {token.requests_per_minute:,} requests a minute"
            headers = {"Retry-After": str(ceil(wait_s)), "X-Should-Retry": "true"}
            raise Refusal(429, "rate_limit_exceeded", words, headers=headers)
    return await handler(request)
