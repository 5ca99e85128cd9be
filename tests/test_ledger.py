"""The durable queue: its laws, and what it cannot take."""

import asyncio
import json
import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ledgers import OUTPUTS, PICTURE, job, on_a_loop, run_one, state_of, take_all

from executor.errors import JobExists, JobRefused
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


# The order


@on_a_loop
async def test_jobs_run_by_number_and_then_in_the_order_of_submission(path: Path) -> None:
    draw = random.Random(0)
    numbers = [float(draw.randrange(-3, 3)) for _ in range(60)]
    async with open_ledger(path) as ledger:
        for i, number in enumerate(numbers):
            await ledger.submit(job(str(i), number=number))
        expected = [str(i) for i in sorted(range(60), key=lambda i: (numbers[i], i))]
        assert [one.record.id for one in await ledger.queue(1_000, 0)] == expected
        assert await take_all(ledger) == expected


@on_a_loop
async def test_without_numbers_they_run_as_they_came_and_front_goes_first(path: Path) -> None:
    async with open_ledger(path) as ledger:
        answers = [await ledger.submit(job(id)) for id in "abc"]
        assert [answer.number for answer in answers] == [1, 2, 3]
        assert (await ledger.submit(job("first", is_front=True))).number == -4
        assert (await ledger.submit(job("second", number=0.5))).number == 0.5
        assert await take_all(ledger) == ["first", "second", "a", "b", "c"]


@on_a_loop
async def test_numbers_are_not_given_out_again_after_all_was_deleted(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a"))
        await ledger.cancel(["a"])
        await ledger.clear_history()
        assert (await ledger.counts()).of == dict.fromkeys(State, 0)
        assert (await ledger.submit(job("a"))).number == 2


@on_a_loop
async def test_each_job_is_taken_exactly_once_by_takers_at_the_same_time(path: Path) -> None:
    async with open_ledger(path) as ledger:
        accepted = await asyncio.gather(*(ledger.submit(job()) for _ in range(100)))
        takes = await asyncio.gather(*(ledger.take(7) for i in range(20)))
        taken = [one.id for take in takes for one in take]
        assert len({one.number for one in accepted}) == 100
        assert sorted(taken) == sorted(one.id for one in accepted)
        assert (await ledger.counts()).running == 100


# Attempts


@on_a_loop
async def test_nothing_of_an_attempt_that_was_given_up_shows(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a"))
        (first,) = await ledger.take()
        executed = EventKind.EXECUTED
        early, late = (replace(PICTURE, filename=f"{name}.png") for name in ("early", "late"))
        assert await ledger.record("a", first.attempt, EventKind.CACHED, "{}", [early])
        await ledger.requeue("a", first.attempt, has_died=True)
        (second,) = await ledger.take()
        assert await ledger.record("a", first.attempt, executed, "{}", [late]) is None
        assert await ledger.finish("a", first.attempt, State.FAILED, {}, {"message": "x"}) is None
        assert await ledger.requeue("a", first.attempt, has_died=True) is None
        assert await ledger.record("a", second.attempt, executed, "{}", [PICTURE])
        assert await ledger.finish("a", second.attempt, State.SUCCEEDED, OUTPUTS)
        found = await ledger.job("a")
        assert found is not None
        assert (found.record.state, found.record.preview) == (State.SUCCEEDED, PICTURE)
        assert (found.record.error, json.loads(found.outputs)) == (None, OUTPUTS)
        assert [event.kind for event in found.events] == [EventKind.ENDED]
        told = [(event.kind, event.attempt) for event in await ledger.events_of_job("a")]
        assert told == [(EventKind.CACHED, 1), (executed, 2), (EventKind.ENDED, 2)]
        assert await ledger.file_owners("early.png", "cats", "output") == {""}  # it is on the disk
        assert await ledger.file_owners("late.png", "cats", "output") == frozenset()


@on_a_loop
async def test_a_job_ends_once(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a"))
        taken = await run_one(ledger)
        for state in (State.SUCCEEDED, State.FAILED):
            assert await ledger.finish("a", taken.attempt, state) is None
        assert await ledger.record("a", taken.attempt, EventKind.CACHED, "{}") is None
        assert await ledger.requeue("a", taken.attempt, has_died=False) is None
        assert await ledger.cancel(["a"]) == ()
        kinds = [event.kind for event in await ledger.events_of_job("a")]
        assert kinds == [EventKind.STARTED, EventKind.EXECUTED, EventKind.ENDED]
        assert await state_of(ledger, "a") == State.SUCCEEDED


@on_a_loop
async def test_a_job_that_is_put_back_has_its_old_place(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for id in "abc":
            await ledger.submit(job(id))
        a, b = await ledger.take(2)
        assert await ledger.requeue("b", b.attempt, has_died=False) is not None
        assert await ledger.requeue("a", a.attempt, has_died=False) is not None
        again = await ledger.take(3)
        assert [(one.id, one.attempt) for one in again] == [("a", 2), ("b", 2), ("c", 1)]


@on_a_loop
async def test_a_running_job_can_be_given_to_a_worker(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a"))
        assert not await ledger.assign("a", 1, "gpu")
        await ledger.take()
        assert await ledger.assign("a", 1, "gpu")
        assert not await ledger.assign("a", 2, "other")
        record = await ledger.job_record("a")
        assert record is not None
        assert record.worker == "gpu"


@on_a_loop
async def test_a_job_fails_at_the_second_death_of_its_worker(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a"))
        for has_died in (False, True, False):
            (taken,) = await ledger.take()
            requeued = await ledger.requeue("a", taken.attempt, has_died=has_died)
            assert requeued is not None
            assert requeued.end is None
        (taken,) = await ledger.take()
        requeued = await ledger.requeue("a", taken.attempt, has_died=True)
        assert requeued is not None
        assert requeued.end is not None
        assert json.loads(requeued.end.data)["error"]["exception_type"] == "worker_lost"
        record = await ledger.job_record("a")
        assert record is not None
        assert (record.state, record.deaths) == (State.FAILED, 2)
        assert await ledger.take() == ()


@on_a_loop
async def test_after_a_restart_running_jobs_are_queued_in_their_old_order(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for id in "abcd":
            await ledger.submit(job(id))
        await ledger.take(2)
    async with open_ledger(path) as ledger:
        assert await ledger.recover() == 2
        assert await ledger.finish("a", 1, State.SUCCEEDED) is None
        again = await ledger.take(4)
        assert [(one.id, one.attempt) for one in again] == [("a", 2), ("b", 2), ("c", 1), ("d", 1)]


# The same again


@on_a_loop
async def test_the_same_key_of_an_owner_gets_the_first_answer(path: Path) -> None:
    async with open_ledger(path) as ledger:
        keyed = job(idempotency_key="k", owner="ann")
        answers = await asyncio.gather(*(ledger.submit(keyed) for _ in range(10)))
        assert len({(answer.id, answer.number) for answer in answers}) == 1
        assert [answer.is_repeat for answer in answers].count(False) == 1
        other = await ledger.submit(job(idempotency_key="k", owner="bob"))
        assert not other.is_repeat
        assert (await ledger.counts()).queued == 2


@on_a_loop
async def test_an_id_again_is_the_same_job_or_an_error(path: Path) -> None:
    async with open_ledger(path) as ledger:
        first = await ledger.submit(job("a"))
        again = await ledger.submit(job("a"))
        assert again == replace(first, is_repeat=True)
        for other in (job("a", owner="bob"), job("a", targets=("1",)), job("a", extra_data="[]")):
            with pytest.raises(JobExists, match="another job 'a'"):
                await ledger.submit(other)
        with pytest.raises(JobExists):
            await ledger.submit(NewJob(prompt="{}", id="a"))
        assert (await ledger.counts()).queued == 1


# Given up while it waits


@on_a_loop
async def test_cancelling_ends_what_is_queued_and_nothing_else(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for id in "abc":
            await ledger.submit(job(id, owner="ann"))
        await ledger.take()
        assert await ledger.cancel(["b"], owner="bob") == ()
        (end,) = await ledger.cancel(["a", "b", "b", "unknown", "\ud800", "\0"], owner="ann")
        assert (end.job_id, json.loads(end.data)) == ("b", {"state": "cancelled", "error": None})
        states = [await state_of(ledger, id) for id in "abc"]
        assert states == [State.RUNNING, State.CANCELLED, State.QUEUED]


@on_a_loop
async def test_clearing_the_queue_ends_all_or_one_owners_jobs(path: Path) -> None:
    async with open_ledger(path) as ledger:
        owners = ["ann", "bob"] * 60
        await asyncio.gather(*(ledger.submit(job(owner=owner)) for owner in owners))
        await ledger.take()
        assert await ledger.clear_queue("bob") == 60
        assert (await ledger.counts("ann")).queued == 59
        assert await ledger.clear_queue() == 59
        assert (await ledger.counts()).of[State.CANCELLED] == 119
        assert (await ledger.counts()).remaining == 1
        ends = await ledger.events_of_owner("bob")
        assert [event.kind for event in ends] == [EventKind.ENDED] * 60


@on_a_loop
async def test_a_job_that_waited_too_long_is_never_taken(path: Path) -> None:
    now = [1_000]
    async with open_ledger(path, lambda: now[0]) as ledger:
        await ledger.submit(job("short", ttl_ms=10))
        await ledger.submit(job("long", ttl_ms=11))
        await ledger.submit(job("any"))
        assert await ledger.expire() == ()
        now[0] += 10
        assert [taken.id for taken in await ledger.take()] == ["long"]
        (end,) = await ledger.expire()
        assert (end.job_id, json.loads(end.data)["state"]) == ("short", "timed_out")
        assert await state_of(ledger, "short") == State.TIMED_OUT
        now[0] += 10
        assert await ledger.expire() == ()  # what runs does not expire
        assert await take_all(ledger) == ["any"]


# What cannot be kept


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"id": "a\0b"}, "id must have printable characters only"),
        ({"id": "a\nb"}, "printable"),
        ({"id": "\ud800"}, "printable"),
        ({"id": "x" * 1_000_000}, "at most 200 characters"),
        ({"id": ""}, "must not be empty"),
        ({"idempotency_key": ""}, "must not be empty"),
        ({"client_id": "x" * 201}, "client_id must have at most"),
        ({"owner": "\x7f"}, "owner must have printable"),
        ({"number": float("nan")}, "number must be between"),
        ({"number": float("-inf")}, "number must be between"),
        ({"number": 10**400}, "number must be between"),
        ({"ttl_ms": 0}, "ttl_ms must be between 1"),
        ({"timeout_ms": 2**64}, "timeout_ms must be between 1"),
        ({"prompt": "{}\0"}, "prompt must be Unicode"),
        ({"prompt": '"\ud800"'}, "prompt must be Unicode"),
        ({"targets": ("\ud800",)}, "targets must be Unicode"),
    ],
)
def test_what_cannot_be_kept_is_refused_clearly(wrong: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"prompt": "{}", **wrong}
    with pytest.raises(JobRefused, match=said) as refused:
        NewJob(**given)
    assert len(str(refused.value)) < 200


@on_a_loop
async def test_what_is_no_json_is_refused_and_its_neighbours_are_kept(path: Path) -> None:
    bad = ["", "{", "NaN", '{"a":NaN}', "{'a':1}", "[" * 5_000 + "]" * 5_000]
    good = ["{}", "[]", "null", "1e999"]
    mixed = random.Random(0).sample(bad + good, len(bad + good))
    async with open_ledger(path) as ledger:
        answers = await asyncio.gather(
            *(ledger.submit(NewJob(prompt=text)) for text in mixed),
            *(ledger.submit(NewJob(prompt="{}", extra_data=text)) for text in bad),
            return_exceptions=True,
        )
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert len(refused) == 2 * len(bad)
        assert all(
            isinstance(error, JobRefused) and "must be JSON" in str(error) for error in refused
        )
        assert (await ledger.counts()).queued == len(answers) - len(refused)
        assert len(await ledger.queue()) == len(answers) - len(refused)


@on_a_loop
async def test_a_prompt_larger_than_a_row_can_be_is_refused(path: Path) -> None:
    async with open_ledger(path) as ledger:
        ledger._writer._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
        with pytest.raises(JobRefused, match="too large: 10,002 characters"):
            await ledger.submit(NewJob(prompt=json.dumps("x" * 10_000)))
        assert await ledger.queue() == ()


@on_a_loop
async def test_an_id_that_no_job_can_have_is_not_found(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for id in ("", "\0", "\ud800", "x" * 1_000_000, "' OR 1=1 --"):
            assert await ledger.job(id) is None
            assert await ledger.job_record(id) is None
            assert await ledger.events_of_job(id) == ()
            assert await ledger.events_of_client(id) == ()
            assert await ledger.forget([id]) == 0
            assert await ledger.finish(id[:9].strip("\ud800"), 1, State.FAILED) is None


# Once more


@on_a_loop
async def test_a_job_that_failed_is_queued_again_behind_the_others_as_if_it_were_new(
    path: Path,
) -> None:
    async with open_ledger(path) as ledger:
        for id in ("failed", "done", "waiting"):
            await ledger.submit(job(id))
        failed, done = await ledger.take(2)
        await ledger.finish("failed", failed.attempt, State.FAILED, OUTPUTS, {"node_id": "1"})
        await ledger.finish("done", done.attempt, State.SUCCEEDED, OUTPUTS)
        assert await ledger.retry("failed")
        assert not await ledger.retry("done")
        assert not await ledger.retry("nobody")
        record = await ledger.job_record("failed")
        assert record
        assert (record.state, record.error, record.output_count) == (State.QUEUED, None, 0)
        assert [one.record.id for one in await ledger.history()] == ["done"]
        assert await take_all(ledger) == ["waiting", "failed"]


@on_a_loop
async def test_a_job_that_lost_its_workers_may_lose_as_many_again(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a"))

        async def die() -> bool:
            (taken,) = await ledger.take()
            requeued = await ledger.requeue("a", taken.attempt, has_died=True)
            assert requeued
            return requeued.end is not None

        assert [await die(), await die()] == [False, True]
        assert await ledger.retry("a")
        assert [await die(), await die()] == [False, True]


@on_a_loop
async def test_what_waits_of_one_workflow_is_cleared_apart(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for id, workflow in (("a", "x"), ("b", "y"), ("c", "x"), ("d", None)):
            await ledger.submit(job(id, workflow_id=workflow))
        assert await ledger.clear_queue(workflow_id="x") == 2
        assert await take_all(ledger) == ["b", "d"]
