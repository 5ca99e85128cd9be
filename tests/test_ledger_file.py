"""The ledger as a file: durable, held by one, and clear about what is wrong with it."""

import asyncio
import json
import re
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from ledgers import job, on_a_loop, state_of, take_all

from executor.errors import LedgerError
from executor.ledger import (
    NewJob,
    State,
    hooks,
    open_ledger,
    queries,
    queue,
    results,
    retention,
    schema,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user" / "ledger.sqlite3"


# Durable


KILLED = """
import asyncio, sys
from pathlib import Path
from executor.ledger import NewJob, State, open_ledger

async def main():
    async with open_ledger(Path(sys.argv[1])) as ledger:
        async def submit():
            while True:
                accepted = await ledger.submit(NewJob(prompt="{}"))
                print("submitted", accepted.id, flush=True)

        async def run():
            while True:
                for job in await ledger.take(3):
                    if job.number % 3:
                        assert await ledger.finish(job.id, job.attempt, State.SUCCEEDED)
                        print("finished", job.id, flush=True)

        await asyncio.gather(run(), *(submit() for _ in range(8)))

asyncio.run(main())
"""


def test_killing_the_process_loses_nothing_that_was_acknowledged(path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(150)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    told = [line.split() for line in lines if line.endswith("\n")]
    submitted = {id for word, id in told if word == "submitted"}
    finished = {id for word, id in told if word == "finished"}
    assert submitted
    assert finished

    async def check() -> None:
        async with open_ledger(path) as ledger:
            await ledger.recover()
            states = {id: await state_of(ledger, id) for id in submitted | finished}
            assert {states[id] for id in finished} == {State.SUCCEEDED}
            assert {states[id] for id in submitted - finished} <= {State.QUEUED, State.SUCCEEDED}
            assert State.QUEUED in states.values()
            waiting = (await ledger.counts()).queued
            assert len(set(await take_all(ledger))) == waiting

    asyncio.run(check())


@on_a_loop
async def test_a_commit_is_on_the_disk_when_it_returns(path: Path) -> None:
    async with open_ledger(path) as ledger:

        def pragma(name: str) -> Any:
            return ledger._writer._connection.execute(f"PRAGMA {name}").fetchone()[0]

        assert (pragma("journal_mode"), pragma("synchronous")) == ("wal", 2)
        assert pragma("foreign_keys") == 1


@on_a_loop
async def test_only_what_would_be_missed_waits_for_the_disk(path: Path) -> None:
    def level(connection: sqlite3.Connection) -> int:
        return connection.execute("PRAGMA synchronous").fetchone()[0]

    async with open_ledger(path) as ledger:
        normal, full = 1, 2
        assert await ledger._writer.do(level) == full
        assert await ledger._writer.do(level, is_synced=False) == normal
        gate = Event()
        busy = asyncio.create_task(ledger._writer.do(lambda _: gate.wait()))
        unsynced = asyncio.create_task(ledger._writer.do(level, is_synced=False))
        synced = asyncio.create_task(ledger._writer.do(level))
        await asyncio.sleep(0)  # all three have asked
        gate.set()
        assert await asyncio.gather(busy, unsynced, synced) == [True, full, full]


@on_a_loop
async def test_closing_answers_what_was_asked_before(path: Path) -> None:
    async with open_ledger(path) as ledger:
        asked = [asyncio.create_task(ledger.submit(job())) for _ in range(300)]
        await asyncio.sleep(0)
    assert len(await asyncio.gather(*asked)) == 300
    for late in (ledger.submit(job()), ledger.counts()):
        with pytest.raises(LedgerError, match="closed"):
            await late
    async with open_ledger(path) as ledger:
        assert (await ledger.counts()).queued == 300


@on_a_loop
async def test_a_caller_that_is_cancelled_before_its_turn_asked_for_nothing(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a"))
        go_on = Event()
        busy = asyncio.create_task(ledger._writer.do(lambda to: go_on.wait()))
        await asyncio.sleep(0)
        gone = asyncio.create_task(ledger.take())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await busy
        assert await state_of(ledger, "a") == State.QUEUED


@on_a_loop
async def test_the_event_loop_goes_on_while_the_ledger_is_busy(path: Path) -> None:
    async with open_ledger(path) as ledger:
        go_on = Event()
        busy = asyncio.create_task(ledger._writer.do(lambda to: go_on.wait(5)))
        submitted = asyncio.create_task(ledger.submit(job()))
        assert (await ledger.counts()).queued == 0  # readers wait for no writer
        assert not submitted.done()
        go_on.set()
        assert await busy
        await submitted
        assert (await ledger.counts()).queued == 1


# The file


@on_a_loop
async def test_one_process_holds_a_ledger(path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(path)]
    async with open_ledger(path) as ledger:
        other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert "LedgerError" in other.stderr
        assert "another Weft server holds it" in other.stderr
        with pytest.raises(LedgerError, match="another Weft server holds it"):
            async with open_ledger(path):
                pass
        await ledger.submit(job())
    async with open_ledger(path) as ledger:
        assert (await ledger.counts()).queued == 1


@on_a_loop
async def test_only_its_user_can_read_it(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job())
        made = [file for file in path.parent.iterdir() if not file.name.endswith(".lock")]
        assert len(made) == 3
        assert [file.stat().st_mode & 0o077 for file in made] == [0, 0, 0]


async def refused(path: Path) -> str:
    with pytest.raises(LedgerError) as error:
        async with open_ledger(path):
            pass
    return str(error.value)


@on_a_loop
async def test_what_is_no_ledger_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"PNG? no ledger at all\n" * 1_000)
    before = path.read_bytes()
    assert "put it aside" in await refused(path)
    assert path.read_bytes() == before
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    before = path.read_bytes()
    assert "database of another program" in await refused(path)
    assert path.read_bytes() == before
    assert "unable to open" in await refused(path.parent)
    assert "ledger.sqlite3" in await refused(path / "below")


@on_a_loop
async def test_a_corrupt_ledger_says_so(path: Path) -> None:
    async with open_ledger(path) as ledger:
        await asyncio.gather(*(ledger.submit(job(str(i))) for i in range(500)))
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(LedgerError, match="put it aside"):
        async with open_ledger(path) as ledger:
            await ledger.submit(job())


@on_a_loop
async def test_a_ledger_of_a_newer_version_is_refused(path: Path) -> None:
    async with open_ledger(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    connection.close()
    assert "update Weft" in await refused(path)


@on_a_loop
async def test_a_migration_happens_as_a_whole_or_not_at_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_ledger(path) as ledger:
        await ledger.submit(job("a"))
    add = "ALTER TABLE jobs ADD COLUMN colour TEXT"
    released = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", (*released, (add, "nonsense")))
    assert "nonsense" in await refused(path)
    monkeypatch.setattr(schema, "MIGRATIONS", (*released, (add,)))
    for _ in range(2):
        async with open_ledger(path) as ledger:
            assert await state_of(ledger, "a") == State.QUEUED
    monkeypatch.setattr(schema, "MIGRATIONS", released)
    assert "update Weft" in await refused(path)


@contextmanager
def no_file_beyond(size_bytes: int) -> Generator[None]:
    """A disk that takes no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@on_a_loop
async def test_what_the_disk_does_not_take_is_not_acknowledged(path: Path) -> None:
    large = json.dumps("x" * 10_000)
    async with open_ledger(path) as ledger:

        async def submit(number: int) -> str | None:
            try:
                return (await ledger.submit(NewJob(prompt=large, number=number))).id
            except LedgerError:
                return None

        with no_file_beyond(450_000):
            answers = [await submit(0) for _ in range(5)]
            answers += await asyncio.gather(*(submit(1) for _ in range(100)))
        accepted = {id for id in answers if id is not None}
        assert 5 <= len(accepted) < 105
        assert await submit(2)  # there is room again
        assert (await ledger.counts()).queued == len(accepted) + 1
    async with open_ledger(path) as ledger:
        assert set((await take_all(ledger))[:-1]) == accepted


@on_a_loop
async def test_a_full_disk_says_what_would_do(path: Path) -> None:
    async with open_ledger(path) as ledger:
        ledger._writer._connection.execute("PRAGMA max_page_count = 50")
        with pytest.raises(LedgerError, match="full; make room"):
            await ledger.submit(NewJob(prompt=json.dumps("x" * 1_000_000)))
        assert (await ledger.counts()).queued == 0
        await ledger.submit(job())


@on_a_loop
async def test_where_no_file_can_be_made_there_is_no_ledger(path: Path) -> None:
    with no_file_beyond(0):
        assert str(path) in await refused(path)


# The statements


HOT = {
    "by key": queue.BY_KEY,
    "by id": queue.BY_ID,
    "head": queue.HEAD,
    "take": queue.TAKE,
    "assign": queue.ASSIGN,
    "body": queue.BODY,
    "requeue": queue.REQUEUE,
    "recover": queue.RECOVER,
    "queued": queue.QUEUED,
    "end rows": queue.END_ROWS,
    "cancel rows": queue.CANCEL_ROWS,
    "expired": queue.EXPIRED,
    "fence": results.RUNNING,
    "end": results.END,
    "surplus": retention.SURPLUS,
    "oldest": retention.OLDEST,
    "forget row": retention.FORGET_ROW,
    "forget": retention.FORGET,
    "queue page": queries.QUEUE_PAGE,
    "queue newest": queries.QUEUE_NEWEST,
    "running": queries.RUNNING,
    "history page": queries.HISTORY_PAGE,
    "history newest": queries.HISTORY_NEWEST,
    "one state": queries.listing([State.FAILED], "created", True),
    "all states": queries.listing(list(State), "created", False),
    "row of": queries.ROW_OF,
    "record": queries.RECORD,
    "full": queries.FULL,
    "last attempt": queries.LAST_ATTEMPT,
    "of job": queries.OF_JOB,
    "of client": queries.OF_CLIENT,
    "of owner": queries.OF_OWNER,
    "file owners": queries.FILE_OWNERS,
    "waiting of": queue.WAITING_OF,
    "forget told row": retention.FORGET_TOLD_ROW,
    "due": hooks.DUE,
    "told": hooks.TOLD,
    "again": hooks.FAILED,
    "waiting": retention.WAITING,
}
HOT |= {
    f"{name} of an owner": queries.narrowed(HOT[name])
    for name in (
        *("queue page", "queue newest", "running", "history page", "history newest"),
        *("one state", "all states", "waiting"),
    )
}


@pytest.mark.parametrize("name", HOT)
def test_hot_statements_walk_an_index_and_sort_nothing(name: str, tmp_path: Path) -> None:
    connection = schema.open_to_write(tmp_path / "ledger")
    values = dict.fromkeys(re.findall(r":(\w+)", HOT[name]))
    plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {HOT[name]}", values)]
    connection.close()
    assert plan
    for step in plan:
        assert "TEMP B-TREE" not in step
        # A partial index holds only what is wanted; json_each walks a list that was given.
        assert not step.startswith("SCAN") or "INDEX" in step or "json_each" in step
        if name.endswith("of an owner"):
            assert "(owner=?" in step or step.startswith(("MERGE", "LEFT", "RIGHT", "UNION ALL"))


def test_the_ledger_is_light() -> None:
    show = "import executor.ledger, sys; print(*{name.split('.')[0] for name in sys.modules})"
    ran = subprocess.run(
        [sys.executable, "-c", show], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = set(ran.stdout.split())
    assert "sqlite3" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "diffusers", "aiohttp", "pydantic", "networkx"})
