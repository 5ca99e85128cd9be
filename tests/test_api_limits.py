"""Limits of tokens: requests a minute, jobs that wait; beyond them 429, which says until when."""

import asyncio
from typing import Any

import pytest
from callers import caller
from hypothesis import given
from hypothesis import strategies as st
from ledgers import on_a_loop
from servers import Served, open_gate, serving, sink, waiting

from executor.api.keys import LEDGER
from executor.api.limits import LIMITS, Limits

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


async def answer(server: Served, path: str, method: str = "GET", **more: Any) -> Any:
    """Status, headers and body."""
    async with server.client.request(method, path, **more) as response:
        return response.status, response.headers, await response.json()


@given(
    per_minute=st.integers(1, 600),
    pauses_s=st.lists(st.floats(0, 30), min_size=1, max_size=80),
)
def test_never_more_than_a_minutes_worth_at_once_and_the_rate_in_the_long_run(
    per_minute: int, pauses_s: list[float]
) -> None:
    now = 0.0
    limits = Limits(lambda: now)
    let_through: list[float] = []
    for pause_s in pauses_s:
        now += pause_s
        wait_s = limits.wait_s("ann", per_minute)
        if wait_s == 0:
            let_through.append(now)
        else:
            assert 0 < wait_s <= 60 / per_minute
    for at, began in enumerate(let_through):
        later = let_through[at:]
        # What may be made at once, and what the time since has added; 1e-6 of rounding.
        assert all(
            count <= per_minute + (when - began) * per_minute / 60 + 1e-6
            for count, when in enumerate(later, 1)
        )


def test_who_waits_as_long_as_told_gets_through() -> None:
    now = 0.0
    limits = Limits(lambda: now)
    for _ in range(3):
        assert limits.wait_s("ann", 3) == 0
    for _ in range(5):
        wait_s = limits.wait_s("ann", 3)
        assert wait_s == pytest.approx(20)
        now += wait_s
        assert limits.wait_s("ann", 3) == 0
    assert limits.wait_s("bob", 1) == 0  # each has a limit of its own
    assert limits.wait_s("ann", 5) == 0  # which begins anew when it is another one


@on_a_loop
async def test_beyond_its_requests_a_token_is_told_when_to_come_again(tmp_path):
    now = 100.0
    async with serving(tmp_path) as server:
        server.app[LIMITS]._clock = lambda: now
        ann, bob = (caller(tmp_path, name, requests_per_minute=2) for name in ("ann", "bob"))
        for _ in range(2):
            await server.get("/queue", headers=ann)
        for path, about in (("/queue", "type"), ("/v1/models", "code")):
            status, headers, body = await answer(server, path, headers=ann)
            assert (status, headers["Retry-After"]) == (429, "30")
            assert headers["X-Should-Retry"] == "true"
            assert body["error"][about] == "rate_limit_exceeded"
            assert "2 requests a minute" in body["error"]["message"]
        await server.get("/queue", headers=bob)
        await server.get("/queue", 401)  # nobody uses up anothers'
        now += 30
        await server.get("/queue", headers=ann)
        await server.get("/queue", 429, headers=ann)


@on_a_loop
async def test_beyond_its_queued_jobs_a_token_is_told_to_come_again(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        ann, bob = (caller(tmp_path, name, queued_jobs=2) for name in ("ann", "bob"))
        body = {"prompt": waiting("gate")}
        running = (await server.post("/prompt", body, headers=ann))["prompt_id"]
        await server.running(running)
        body = {"prompt": sink()}
        statuses = [
            status
            for status, *_ in await asyncio.gather(
                *(answer(server, "/prompt", "POST", json=body, headers=ann) for _ in range(8))
            )
        ]
        assert sorted(statuses) == [200, 200] + [429] * 6
        assert (await server.app[LEDGER].counts("ann")).queued == 2
        _, headers, refused = await answer(server, "/prompt", "POST", json=body, headers=ann)
        assert int(headers["Retry-After"]) > 0
        assert headers["X-Should-Retry"] == "true"
        assert refused["error"]["type"] == "queue_full"
        assert "2 is the most" in refused["error"]["message"]
        await server.post("/prompt", body, headers=bob)
        open_gate("gate")

        async def is_done() -> bool:
            return (await server.app[LEDGER].counts()).remaining == 0

        await server.until(is_done)
        await server.post("/prompt", body, headers=ann)
