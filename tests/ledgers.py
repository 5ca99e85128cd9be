"""What the tests of the ledger share: jobs in a line, and coroutines as tests."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from executor.ledger import EventKind, JobFile, Ledger, NewJob, State, TakenJob

PICTURE = JobFile("a_00001_.png", "cats", "output", "9")
OUTPUTS = {"9": {"images": [{"filename": "a_00001_.png", "subfolder": "cats", "type": "output"}]}}


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine as a test."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def job(id: str | None = None, **more: Any) -> NewJob:
    return NewJob(prompt='{"1": {}}', id=id, **more)


async def take_all(ledger: Ledger) -> list[str]:
    return [taken.id for taken in await ledger.take(1_000)]


async def run_one(ledger: Ledger, state: State = State.SUCCEEDED) -> TakenJob:
    """Take the next job and end it, with a picture."""
    (taken,) = await ledger.take()
    assert await ledger.record(taken.id, taken.attempt, EventKind.STARTED, "{}")
    assert await ledger.record(taken.id, taken.attempt, EventKind.EXECUTED, "{}", [PICTURE])
    assert await ledger.finish(taken.id, taken.attempt, state, OUTPUTS)
    return taken


async def state_of(ledger: Ledger, job_id: str) -> State:
    record = await ledger.job_record(job_id)
    assert record is not None, f"job {job_id} is lost"
    return record.state
