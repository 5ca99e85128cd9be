"""What the ledger keeps by owner: lists, limits, files, and whom to tell of a job's end."""

from pathlib import Path
from typing import Any

import pytest
from ledgers import job, on_a_loop, run_one, state_of

from executor.errors import QueueFull
from executor.ledger import DueHook, Ledger, NewHook, State, open_ledger

HOOK = NewHook("https://x.example/hook", "x.example", "job", "http://weft.example")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user" / "ledger.sqlite3"


async def due(ledger: Ledger, **passed_over: Any) -> list[str]:
    return [hook.job_id for hook in await ledger.due_hooks(100, **passed_over)]


@on_a_loop
async def test_each_owner_has_lists_as_if_nobody_else_were_there(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for i in range(12):
            await ledger.submit(job(str(i), owner=("ann", "bob", "cid")[i % 3], client_id="c"))
        for _ in range(6):
            await run_one(ledger)
        await ledger.take(3)
        for at, owner in enumerate(("ann", "bob", "cid")):
            own = [str(i) for i in range(at, 12, 3)]
            ended, running, waiting = own[:2], own[2:3], own[3:]
            for of in (None, 0):
                shown = await ledger.history(10, of, owner)
                assert [one.record.id for one in shown] == ended
                assert [one.record.id for one in await ledger.queue(10, of, owner)] == waiting
            assert [one.record.id for one in await ledger.running(owner)] == running
            page = await ledger.jobs(owner=owner, limit=3, is_newest_first=False)
            assert ([one.id for one in page.jobs], page.total) == (own[:3], 4)
            events = await ledger.events_of_client("c", owner=owner)
            assert {event.job_id for event in events} == set(ended)
            assert await ledger.job(own[0], "dan") is None
            assert await ledger.job_record(own[0], "dan") is None
            found = await ledger.job_record(own[0], owner)
            assert found is not None
        assert await ledger.clear_history("ann") == 2
        assert await ledger.clear_queue("bob") == 1
        counts = await ledger.counts()
        assert (counts.queued, counts.of[State.CANCELLED], counts.of[State.SUCCEEDED]) == (2, 1, 4)


@on_a_loop
async def test_an_owner_with_as_many_that_wait_as_may_is_refused_and_no_other(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for key in ("a", "b"):
            await ledger.submit(job(owner="ann", idempotency_key=key), most_queued=2)
        with pytest.raises(QueueFull, match="2 jobs wait already; 2 is the most"):
            await ledger.submit(job(owner="ann"), most_queued=2)
        again = await ledger.submit(job(owner="ann", idempotency_key="a"), most_queued=2)
        assert again.is_repeat
        await ledger.submit(job(owner="bob"), most_queued=1)
        await ledger.take()
        await ledger.submit(job(owner="ann"), most_queued=2)
        assert (await ledger.counts("ann")).remaining == 3


@on_a_loop
async def test_trying_again_is_within_the_same_limit(path: Path) -> None:
    async with open_ledger(path) as ledger:
        failed = await ledger.submit(job(owner="ann"))
        await run_one(ledger, State.FAILED)
        await ledger.submit(job(owner="ann"))
        with pytest.raises(QueueFull, match="1 jobs wait already; 1 is the most"):
            await ledger.retry(failed.id, most_queued=1)
        assert await state_of(ledger, failed.id) is State.FAILED
        assert await ledger.retry(failed.id, most_queued=2)


@on_a_loop
async def test_an_upload_is_its_owners_and_who_sent_the_same_has_it_too(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for owner in ("ann", "ann", "bob"):
            await ledger.add_upload("x.png", "cats", "input", owner)
        assert await ledger.file_owners("x.png", "cats", "input") == {"ann", "bob"}
        assert await ledger.file_owners("x.png", "", "input") == frozenset()


@on_a_loop
async def test_however_a_job_ends_its_hook_is_due_and_not_before(path: Path) -> None:
    now = [1_000]
    async with open_ledger(path, lambda: now[0]) as ledger:
        for id in ("fails", "lost", "waits long", "is cancelled", "is cleared", "goes on"):
            ttl_ms = 50 if id == "waits long" else None
            await ledger.submit(job(id, hook=HOOK, owner="ann", ttl_ms=ttl_ms))
        await ledger.submit(job("without"))
        assert await due(ledger) == []
        await run_one(ledger, State.FAILED)
        for _ in range(2):
            (taken,) = await ledger.take()
            await ledger.requeue(taken.id, taken.attempt, has_died=True)
        now[0] += 100
        await ledger.expire()
        await ledger.cancel(["is cancelled"])
        (running,) = [one for one in await ledger.take(2) if one.id == "goes on"]
        await ledger.clear_queue()
        assert await due(ledger) == ["fails", "lost", "waits long", "is cancelled"]
        await ledger.recover()
        await ledger.clear_queue()
        assert sorted((await due(ledger))[4:]) == ["goes on", "is cleared"]
        assert running.id == "goes on"


@on_a_loop
async def test_a_hook_that_was_told_is_gone_and_one_that_failed_comes_again_after_a_restart(
    path: Path,
) -> None:
    now = [1_000]
    async with open_ledger(path, lambda: now[0]) as ledger:
        for id in "ab":
            await ledger.submit(job(id, hook=HOOK, owner="ann"))
            await run_one(ledger)
        first, second = await ledger.due_hooks(5)
        assert first == DueHook(
            first.id, "a", "ann", HOOK.url, HOOK.host, HOOK.renderer, HOOK.base_url, 0
        )
        await ledger.hook_told(first.id)
        await ledger.hook_failed(second.id, 10)
        assert await due(ledger) == []
    async with open_ledger(path, lambda: now[0]) as ledger:
        now[0] += 9_999
        assert await due(ledger) == []
        now[0] += 1
        (again,) = await ledger.due_hooks(5)
        assert (again.id, again.job_id, again.tries) == (second.id, "b", 1)


@on_a_loop
async def test_what_is_busy_holds_up_no_other(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for id, owner, host in (("a", "ann", "x"), ("b", "ann", "y"), ("c", "bob", "x")):
            hook = NewHook(f"https://{host}/", host, "job", "")
            await ledger.submit(job(id, hook=hook, owner=owner))
            await run_one(ledger)
        first = (await ledger.due_hooks(1))[0]
        assert await due(ledger, apart_from=[first.id]) == ["b", "c"]
        assert await due(ledger, owners=["ann"]) == ["c"]
        assert await due(ledger, hosts=["x"]) == ["b"]
        assert await due(ledger, hosts=["x"], owners=["ann"]) == []


@on_a_loop
async def test_retention_keeps_a_job_whose_end_is_still_to_be_told(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a", hook=HOOK))
        await ledger.submit(job("b"))
        await run_one(ledger)
        await run_one(ledger)
        assert await ledger.retain(most=0) == 1
        (hook,) = await ledger.due_hooks(5)
        await ledger.hook_told(hook.id)
        assert await ledger.retain(most=0) == 1
        assert await ledger.job("a") is None


@on_a_loop
async def test_a_job_that_somebody_deletes_is_told_of_no_more(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a", hook=HOOK))
        await run_one(ledger)
        assert await ledger.forget(["a"]) == 1
        assert await due(ledger) == []


@on_a_loop
async def test_a_submission_that_is_repeated_tells_once(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for _ in range(2):
            await ledger.submit(job(idempotency_key="k", hook=HOOK))
        await run_one(ledger)
        assert len(await ledger.due_hooks(5)) == 1
