"""What the ledger keeps, how it is shown page by page, and what is thrown away."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from ledgers import OUTPUTS, PICTURE, job, on_a_loop, run_one, state_of

from executor.ledger import (
    EventKind,
    NewJob,
    State,
    open_ledger,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user" / "ledger.sqlite3"


@on_a_loop
async def test_what_a_client_sent_comes_back_letter_for_letter(path: Path) -> None:
    sent = NewJob(
        prompt='{ "1" :{"text":"ж 猫 \\ud83d\\ude00 \\u0000", "seed":18446744073709551615}}',
        extra_data='{"b": 1, "a": 1e999 }',
        targets=("2", "ä"),
        client_id="c",
        workflow_id="flow",
        timeout_ms=5,
    )
    async with open_ledger(path) as ledger:
        accepted = await ledger.submit(sent)
        (taken,) = await ledger.take()
        assert (taken.id, taken.client_id, taken.timeout_ms) == (accepted.id, "c", 5)
        (shown,) = await ledger.running()
        assert shown.record.workflow_id == "flow"
        for body in (taken.body, shown.body):
            assert (body.prompt, body.extra_data) == (sent.prompt, sent.extra_data)
            assert body.targets == sent.targets


@on_a_loop
async def test_the_history_shows_what_ran_oldest_first_and_the_newest_by_default(
    path: Path,
) -> None:
    async with open_ledger(path) as ledger:
        for id in "abcde":
            await ledger.submit(job(id))
        await ledger.cancel(["b"])
        taken = await ledger.take(4)
        for one in reversed(taken):
            await ledger.record(one.id, one.attempt, EventKind.STARTED, "{}")
            await ledger.record(one.id, one.attempt, EventKind.EXECUTED, "{}")
            await ledger.finish(one.id, one.attempt, State.FAILED, {}, {"message": one.id})

        async def shown(limit: int = 100, offset: int | None = None) -> str:
            return "".join(one.record.id for one in await ledger.history(limit, offset))

        assert await shown() == "edca"
        assert await shown(3) == "dca"
        assert await shown(2, 0) == "ed"
        assert await shown(2, 3) == "a"
        assert await shown(-1) == await shown(10**30, 10**30) == ""
        found = (await ledger.history(1))[0]
        assert found.record.error == '{"message": "a"}'
        assert [event.kind for event in found.events] == [EventKind.STARTED, EventKind.ENDED]


@on_a_loop
async def test_the_queue_is_paged_from_its_head_or_shows_the_last_submitted(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for id in "abcd":
            await ledger.submit(job(id, is_front=id == "d"))

        async def shown(limit: int = 100, offset: int | None = None) -> str:
            return "".join(one.record.id for one in await ledger.queue(limit, offset))

        assert await shown() == "dabc"
        assert await shown(2) == "dc"
        assert await shown(2, 1) == "ab"
        for id in "efg":
            await ledger.submit(job(id, number=1))
        assert await shown(3) == "efg"
        assert await shown() == "daefgbc"


@on_a_loop
async def test_pages_of_jobs_make_up_the_whole_list(path: Path) -> None:
    now = count(1_000)
    async with open_ledger(path, lambda: next(now)) as ledger:
        for i in range(12):
            await ledger.submit(job(str(i), owner="ann" if i % 2 else "bob"))
        for i in range(4):
            await run_one(ledger, State.FAILED if i % 2 else State.SUCCEEDED)
        await ledger.take(2)
        await ledger.cancel(["7"])
        for states in ((), (State.QUEUED,), (State.FAILED, State.RUNNING), tuple(State)):
            for sort in ("created", "duration"):
                whole = await ledger.jobs(states, sort=sort)
                pages = [await ledger.jobs(states, limit=3, offset=i, sort=sort) for i in (0, 3, 6)]
                paged = [job for page in pages for job in page.jobs]
                assert paged == list(whole.jobs[:9])
                assert {page.total for page in pages} == {len(whole.jobs)}
                assert {job.state for job in whole.jobs} <= set(states)
                other_way = await ledger.jobs(states, sort=sort, is_newest_first=False)
                assert other_way.jobs == whole.jobs[::-1]
        everything = await ledger.jobs()
        assert [job.id for job in everything.jobs] == [str(i) for i in reversed(range(12))]
        assert (await ledger.jobs((State.FAILED,), owner="bob")).total == 0
        failed = (await ledger.jobs((State.FAILED,), owner="ann")).jobs
        assert [(job.id, job.output_count, job.preview) for job in failed] == [
            ("3", 1, PICTURE),
            ("1", 1, PICTURE),
        ]


@on_a_loop
async def test_a_picture_that_is_kept_is_shown_before_a_preview(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a"))
        await ledger.take()
        preview = replace(PICTURE, type="temp")
        await ledger.record("a", 1, EventKind.EXECUTED, "{}", [preview, PICTURE])
        await ledger.finish("a", 1, State.SUCCEEDED, OUTPUTS | {"8": {"animated": [True]}})
        record = await ledger.job_record("a")
        assert record is not None
        assert (record.preview, record.output_count) == (PICTURE, 1)


@on_a_loop
async def test_a_client_gets_the_events_since_a_number_over_all_its_jobs(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for i in range(6):
            await ledger.submit(job(str(i), client_id=f"c{i % 2}", owner=f"o{i % 3}"))
            await run_one(ledger)
        every = [event for i in range(6) for event in await ledger.events_of_job(str(i))]
        assert [event.seq for event in every] == list(range(1, 19))
        for since in (0, 4, 17, 10**30):
            after = [event for event in every if event.seq > since]
            for i in range(2):
                of_client = [event for event in after if event.client_id == f"c{i}"]
                assert list(await ledger.events_of_client(f"c{i}", since)) == of_client
                assert list(await ledger.events_of_client(f"c{i}", since, 2)) == of_client[:2]
            of_owner = [event for event in after if event.owner == "o1"]
            assert list(await ledger.events_of_owner("o1", since)) == of_owner
        assert await ledger.newest_seq() == 18
        await ledger.clear_history()
        assert await ledger.newest_seq() == 18


@on_a_loop
async def test_a_file_belongs_to_everybody_whose_jobs_left_it(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for id, owner in (("a", "ann"), ("b", "bob"), ("c", "ann")):
            await ledger.submit(job(id, owner=owner))
            await run_one(ledger)
        name = (PICTURE.filename, PICTURE.subfolder, PICTURE.type)
        assert await ledger.file_owners(*name) == {"ann", "bob"}
        await ledger.forget(["b"])
        assert await ledger.file_owners(*name) == {"ann"}
        assert await ledger.file_owners(PICTURE.filename, "", "output") == frozenset()
        assert await ledger.file_owners("\ud800", "", "output") == frozenset()


@on_a_loop
async def test_what_is_over_can_be_forgotten_and_nothing_else(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for id in "abcd":
            await ledger.submit(job(id, owner="ann", idempotency_key=id))
        await run_one(ledger)
        await run_one(ledger)
        await ledger.take()
        assert await ledger.forget("abcd", owner="bob") == 0
        assert await ledger.forget("acd") == 1
        assert await ledger.job("a") is None
        assert await ledger.events_of_job("a") == ()
        assert not (await ledger.submit(job("a", owner="ann", idempotency_key="a"))).is_repeat
        assert await ledger.clear_history("bob") == 0
        assert await ledger.clear_history() == 1
        assert (await ledger.counts()).remaining == 3


@on_a_loop
async def test_retention_keeps_the_newest_and_the_young(path: Path) -> None:
    now = [0]
    day = 86_400_000
    async with open_ledger(path, lambda: now[0]) as ledger:
        for i in range(8):
            now[0] = i * day
            await ledger.submit(job(str(i)))
            await run_one(ledger)
        await ledger.submit(job("waits"))
        for i in range(3):
            await ledger.submit(job(f"cancelled {i}"))
            await ledger.cancel([f"cancelled {i}"])

        async def kept() -> list[str]:
            return [one.record.id for one in await ledger.history()]

        assert await ledger.retain() == 0
        assert await ledger.retain(most=6) == 2  # the cancelled ones do not push it out
        assert await kept() == list("234567")
        assert await ledger.retain(days=3) == 2
        assert await kept() == list("4567")
        assert await ledger.retain(most=1, days=2.5) == 5
        assert await kept() == ["7"]
        assert await state_of(ledger, "waits") == State.QUEUED
