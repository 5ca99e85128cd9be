"""Webhooks: each end of a job is told, signed, until somebody has it; nobody waits for another."""

import asyncio
import hmac
import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from callers import caller
from hosts import LOOPBACK, Answer, Host, host, never
from ledgers import job, on_a_loop, run_one
from servers import Served, failing, open_gate, serving, sink, waiting
from yarl import URL

from executor.api import webhooks
from executor.api.webhooks import PAUSES_S, WEBHOOKS, Webhooks
from executor.ledger import FullJob, Ledger, NewHook, open_ledger
from executor.secret import Secret, secret_of

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "LOOK_EVERY_S", 0.02)


def answering(*statuses: int) -> Answer:
    """With these, one after the other; then with 200."""
    left = list(statuses)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=left.pop(0) if left else 200, headers={"Location": "/x"})

    return answer


@asynccontextmanager
async def telling(
    base: Path, receiver: Host, *, pauses_s: Sequence[float] = (0.01,) * 5, **more: Any
) -> AsyncGenerator[Served]:
    """A server that takes loopback for the public network."""
    async with serving(base, **more) as server:
        hooks = server.app[WEBHOOKS]
        hooks._outside.close()
        hooks._outside, hooks._pauses_s = receiver.outside(), pauses_s
        yield server


async def until_told(receiver: Host, count: int) -> list[Any]:
    """The bodies that a host has got, as soon as there are so many."""
    while len(receiver.bodies) < count:
        await asyncio.sleep(0.01)
    return [json.loads(body) for body in receiver.bodies]


def ids(receiver: Host) -> list[str]:
    return [asked.headers["X-Weft-Id"] for asked in receiver.asked]


async def nothing_left(server: Served) -> None:
    async def is_done() -> bool:
        return not server.app[WEBHOOKS]._telling and not await server.ledger.due_hooks(1)

    await server.until(is_done)


# What is told


@on_a_loop
async def test_the_end_of_a_job_is_told_with_addresses_that_work(tmp_path):
    async with host(answering()) as receiver, telling(tmp_path, receiver) as server:
        job_id = await server.submit(sink(), webhook=receiver.url("/hook?x=1"))
        (told,) = await until_told(receiver, 1)
        (asked,) = receiver.asked
        assert (asked.method, asked.path_qs) == ("POST", "/hook?x=1")
        assert asked.content_type == "application/json"
        listed = (await server.get("/jobs"))["jobs"]
        assert told.items() >= listed[0].items()
        assert (told["id"], told["status"]) == (job_id, "completed")
        (file,) = [f for kinds in told["outputs"].values() for fs in kinds.values() for f in fs]
        url = URL(file["url"], encoded=True)
        assert url.port == server.client.port
        caller(tmp_path, "ann")
        async with server.client.get(url.relative()) as response:
            assert response.status == 200
        await nothing_left(server)
        assert len(receiver.asked) == 1


@on_a_loop
async def test_the_end_of_a_job_of_runpods_face_is_told_as_its_status(tmp_path):
    async with host(answering()) as receiver, telling(tmp_path, receiver) as server:
        said = {"input": {"workflow": failing()}, "webhook": receiver.url("/hook")}
        queued = await server.post("/v2/weft-tiny/run", said)
        (told,) = await until_told(receiver, 1)
        assert told == await server.get(f"/v2/weft-tiny/status/{queued['id']}")
        assert told["status"] == "FAILED"
        assert told["error"]
        await server.post("/run", {**said, "webhook": "http://127.0.0.1:1/"}, 400)


@on_a_loop
async def test_every_way_to_end_is_told(tmp_path):
    async with host(answering()) as receiver, telling(tmp_path, receiver, capacity=1) as server:
        more = {"webhook": receiver.url()}
        expected = {await server.submit(failing(), **more): "failed"}
        await until_told(receiver, 1)
        running = await server.submit(waiting("gate"), **more)
        await server.running(running)
        cancelled, cleared = [await server.submit(sink(), **more) for _ in range(2)]
        await server.post(f"/jobs/{cancelled}/cancel")
        await server.post("/queue", {"clear": True})
        await server.post("/interrupt", {"prompt_id": running})
        open_gate("gate")
        expected |= dict.fromkeys((running, cancelled, cleared), "cancelled")
        told = await until_told(receiver, 4)
        assert {one["id"]: one["status"] for one in told} == expected
        (error,) = [one["execution_error"] for one in told if one["status"] == "failed"]
        assert error["exception_message"]


@on_a_loop
async def test_whoever_knows_the_secret_can_tell_that_it_is_ours_and_of_when(tmp_path, monkeypatch):
    monkeypatch.setattr(webhooks, "time", lambda: 1_700_000_000.9)
    async with host(answering()) as receiver, telling(tmp_path, receiver) as server:
        headers = caller(tmp_path, "ann")
        body = {"prompt": sink(), "webhook": receiver.url()}
        await server.post("/prompt", body, headers=headers)
        await until_told(receiver, 1)
        shown = receiver.asked[0].headers["X-Weft-Signature"]
        found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", shown)
        assert found is not None
        assert found[1] == "1700000000"
        secret = secret_of(tmp_path / "user").for_webhooks("ann")
        text = f"{found[1]}.".encode() + receiver.bodies[0]
        assert hmac.new(secret.encode(), text, "sha256").hexdigest() == found[2]
        others = secret_of(tmp_path / "user").for_webhooks("bob")
        assert hmac.new(others.encode(), text, "sha256").hexdigest() != found[2]


@on_a_loop
async def test_a_submission_that_is_repeated_is_told_once(tmp_path):
    async with host(answering()) as receiver, telling(tmp_path, receiver) as server:
        body = {"prompt": sink(), "webhook": receiver.url()}
        for _ in range(3):
            await server.post("/prompt", body, headers={"Idempotency-Key": "k"})
        await until_told(receiver, 1)
        await nothing_left(server)
        assert len(receiver.asked) == 1


# Again


@on_a_loop
async def test_what_is_not_taken_is_told_again_under_its_id(tmp_path):
    async with (
        host(answering(500, 404, 302, 199 + 201)) as receiver,
        telling(tmp_path, receiver) as server,
    ):
        await server.submit(sink(), webhook=receiver.url("/a"))
        bodies = await until_told(receiver, 5)
        await nothing_left(server)
        assert len(receiver.asked) == 5
        assert len(set(ids(receiver))) == 1
        assert {asked.path for asked in receiver.asked} == {"/a"}  # it is led nowhere
        assert len({body["id"] for body in bodies}) == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@on_a_loop
async def test_what_is_taken_is_told_no_more(tmp_path, status):
    async with host(answering(status)) as receiver, telling(tmp_path, receiver) as server:
        await server.submit(sink(), webhook=receiver.url())
        await until_told(receiver, 1)
        await nothing_left(server)
        assert len(receiver.asked) == 1


async def plain(app: web.Application, job: FullJob, base_url: str) -> str:
    return json.dumps({"id": job.record.id, "at": base_url})


class Clock:
    """Time that passes when the test says so."""

    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@asynccontextmanager
async def by_hand(
    base: Path, receiver: Host, clock: Clock, renderer: Any = plain
) -> AsyncGenerator[Ledger]:
    """A ledger whose ends of jobs are told, by its own clock."""
    async with open_ledger(base / "ledger", clock) as ledger:
        hooks = Webhooks(ledger, receiver.outside(at_once=64), Secret(b""), {"plain": renderer})
        task = asyncio.create_task(hooks.run(web.Application()))
        try:
            yield ledger
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def over(ledger: Ledger, url: str, id: str | None = None, **more: Any) -> None:
    """A job that is over, whose end is to be told there."""
    hook = NewHook(url, URL(url).host or "", "plain", "http://here")
    await ledger.submit(job(id, hook=hook, **more))
    await run_one(ledger)


@on_a_loop
async def test_a_restart_forgets_nothing(tmp_path):
    clock, answers = Clock(), {"/failed": [answering(500), answering()], "/cut": [never]}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        left = answers.get(request.path)
        return await (left.pop(0) if left else answering())(request)

    async with host(answer) as receiver:
        async with by_hand(tmp_path, receiver, clock) as ledger:
            await over(ledger, receiver.url("/failed"))
            await until_told(receiver, 1)
            while await ledger.due_hooks(1):
                await asyncio.sleep(0.01)
            await over(ledger, receiver.url("/cut"))
            await until_told(receiver, 2)
            hook = NewHook(receiver.url("/later"), "x", "plain", "")
            await ledger.submit(job(hook=hook))
        clock.now_ms += 10_000
        async with by_hand(tmp_path, receiver, clock) as ledger:
            await run_one(ledger)
            await until_told(receiver, 5)
            asked = [(one.path, one.headers["X-Weft-Id"]) for one in receiver.asked]
            assert {path for path, _ in asked[2:]} == {"/failed", "/cut", "/later"}
            assert len(set(asked)) == 3  # and each under the id that it had


@on_a_loop
async def test_the_pauses_grow_until_it_is_given_up(tmp_path, caplog):
    clock = Clock()
    statuses = [500] * 99
    async with host(answering(*statuses)) as receiver, by_hand(tmp_path, receiver, clock) as ledger:
        await over(ledger, receiver.url())
        for count, pause_s in enumerate(PAUSES_S, 1):
            await until_told(receiver, count)
            while await ledger.due_hooks(1):
                await asyncio.sleep(0.01)
            clock.now_ms += int(pause_s * 1000) - 1
            assert await ledger.due_hooks(1) == ()
            clock.now_ms += 1
        await until_told(receiver, len(PAUSES_S) + 1)
        while "given up" not in caplog.text:
            await asyncio.sleep(0.01)
        clock.now_ms += 10**9
        await asyncio.sleep(0.1)  # some looks
        assert len(receiver.asked) == len(PAUSES_S) + 1 == 6
        assert PAUSES_S == (10, 30, 120, 600, 3600)


@on_a_loop
async def test_a_body_that_cannot_be_made_is_tried_again_and_harms_no_other(tmp_path, caplog):
    clock, broken = Clock(), ["a"]

    async def sometimes(app: web.Application, job: FullJob, base_url: str) -> str:
        if job.record.id in broken:
            raise KeyError("a fault of its own")
        return await plain(app, job, base_url)

    async with (
        host(answering()) as receiver,
        by_hand(tmp_path, receiver, clock, sometimes) as ledger,
    ):
        for id in "ab":
            await over(ledger, receiver.url(), id)
        assert await until_told(receiver, 1) == [{"id": "b", "at": "http://here"}]
        while await ledger.due_hooks(1):
            await asyncio.sleep(0.01)
        assert "a fault of its own" in caplog.text
        broken.clear()
        clock.now_ms += 10_000
        assert (await until_told(receiver, 2))[1]["id"] == "a"


@on_a_loop
async def test_a_hook_of_a_face_that_is_gone_is_dropped(tmp_path):
    async with host(answering()) as receiver, by_hand(tmp_path, receiver, Clock()) as ledger:
        await ledger.submit(job(hook=NewHook(receiver.url(), "x", "gone", "")))
        await run_one(ledger)
        while await ledger.due_hooks(1):
            await asyncio.sleep(0.01)
        assert receiver.asked == []


@on_a_loop
async def test_a_job_that_is_tried_again_is_told_again_under_another_id(tmp_path):
    async with host(answering()) as receiver, by_hand(tmp_path, receiver, Clock()) as ledger:
        hook = NewHook(receiver.url(), "x", "plain", "")
        await ledger.submit(job("a", hook=hook))
        (taken,) = await ledger.take()
        await ledger.requeue("a", taken.attempt, has_died=True)
        (taken,) = await ledger.take()
        await ledger.requeue("a", taken.attempt, has_died=True)
        await until_told(receiver, 1)
        assert await ledger.retry("a")  # before it is noted that the first end was told
        await run_one(ledger)
        await until_told(receiver, 2)
        while await ledger.due_hooks(1):
            await asyncio.sleep(0.01)
        assert len(set(ids(receiver))) == len(receiver.asked) == 2


# Nobody waits


@on_a_loop
async def test_a_host_that_hangs_holds_up_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(webhooks, "MOST_TO_A_HOST", 2)
    running = most = 0

    async def hangs(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal running, most
        if request.host.startswith("slow."):
            running += 1
            most = max(most, running)
            return await never(request)
        return web.Response()

    async with host(hangs) as receiver, by_hand(tmp_path, receiver, Clock()) as ledger:
        for _ in range(6):
            await over(ledger, receiver.url(name="slow.example"), owner="ann")
        for number in range(5):
            await over(ledger, receiver.url("/quick", "quick.example"), f"quick {number}")
        while sum(asked.path == "/quick" for asked in receiver.asked) < 5:
            await asyncio.sleep(0.01)
        assert most == running == 2


@on_a_loop
async def test_an_owner_with_many_hosts_that_hang_holds_up_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(webhooks, "AT_ONCE", 5)
    monkeypatch.setattr(webhooks, "MOST_OF_AN_OWNER", 3)

    async def hangs(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response() if request.path == "/quick" else await never(request)

    async with host(hangs) as receiver, by_hand(tmp_path, receiver, Clock()) as ledger:
        for number in range(8):
            await over(ledger, receiver.url(name=f"h{number}.example"), owner="ann")
        await over(ledger, receiver.url("/quick"), owner="bob")
        while not any(asked.path == "/quick" for asked in receiver.asked):
            await asyncio.sleep(0.01)
        assert len(receiver.asked) == 3 + 1


@on_a_loop
async def test_one_that_hangs_is_cut_off_and_tried_again(tmp_path):
    answers = [never, answering()]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await answers.pop(0)(request)

    async with host(answer) as receiver, telling(tmp_path, receiver) as server:
        server.app[WEBHOOKS]._outside = receiver.outside(seconds=0.1)
        await server.submit(sink(), webhook=receiver.url())
        await until_told(receiver, 2)
        assert len(set(ids(receiver))) == 1


@on_a_loop
async def test_many_at_once_are_all_told(tmp_path):
    async with host(answering()) as receiver, telling(tmp_path, receiver) as server:
        sent = [await server.submit(sink(i), webhook=receiver.url()) for i in range(20)]
        told = await until_told(receiver, 20)
        assert {one["id"] for one in told} == set(sent)
        await nothing_left(server)
        assert len(receiver.asked) == 20


# Where


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://10.0.0.1/x", "http://[::1]/", "http://2130706433/"),
        *("http://x.example:22/", "http://me@x.example/", "ftp://x.example/", "x", "http://"),
    ],
)
@on_a_loop
async def test_a_hook_that_nothing_will_be_sent_to_is_refused_with_its_job(tmp_path, url):
    async with serving(tmp_path) as server:
        refused = await server.post("/prompt", {"prompt": sink(), "webhook": url}, 400)
        assert refused["error"]["type"] == "bad_url"
        assert (await server.ledger.jobs()).total == 0
        await server.post("/prompt", {"prompt": sink(), "webhook": 5}, 400)


@on_a_loop
async def test_a_name_that_leads_into_the_network_is_not_told_but_one_that_was_named_is(tmp_path):
    async with host(answering()) as receiver:
        receiver.names["private.example"] = ["10.0.0.1"]
        for name, is_allowed in (("private.example", True), ("named.example", False)):
            async with telling(tmp_path / name, receiver) as server:
                hooks = server.app[WEBHOOKS]
                hooks._outside = receiver.outside(
                    private_hosts=("named.example",),
                    is_allowed=lambda address, is_allowed=is_allowed: (
                        is_allowed and address == LOOPBACK
                    ),
                )
                await server.over(await server.submit(sink(), webhook=receiver.url(name=name)))
                await nothing_left(server)
        assert [asked.host.partition(":")[0] for asked in receiver.asked] == ["named.example"]


@on_a_loop
async def test_the_hosts_that_were_named_are_those_of_the_settings(tmp_path):
    async with (
        host(answering()) as receiver,
        serving(tmp_path, webhook_hosts=(LOOPBACK,)) as server,
    ):
        await server.submit(sink(), webhook=receiver.url(name=LOOPBACK))
        await until_told(receiver, 1)
        body = {"prompt": sink(), "webhook": receiver.url(name="127.0.0.2")}
        await server.post("/prompt", body, 400)
