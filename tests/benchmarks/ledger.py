"""What the durable queue holds: submissions a second, waiting times, and 100,000 queued jobs.

Wall time, since waiting for the disk is what is measured; other programs disturb it.
"""

import asyncio
import os
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from executor.ledger import NewJob, open_ledger
from executor.ledger.ledger import wall_clock_ms
from executor.ledger.queue import take
from executor.ledger.schema import open_to_write, transaction

from .table import show

PROMPT = (
    '{"3":{"class_type":"KSampler","inputs":{'
    + ",".join(f'"input_{i}":["{i}",0]' for i in range(100))
    + "}}}"
)
"""About 2 kB, a usual text to image graph."""

SUBMITTERS, SUBMITTED_EACH = 64, 40
OFFERED_PER_S, OFFERED_S = 500, 6
QUEUED, AT_ONCE = 100_000, 1_000


def main() -> None:
    """Print throughput and percentiles of submitting, and what a long queue costs."""
    with TemporaryDirectory() as folder:
        rows = _syncing(Path(folder) / "file")
        rows += asyncio.run(_submitting(Path(folder) / "submitting.sqlite3"))
    with TemporaryDirectory() as folder:
        rows += asyncio.run(_long_queue(Path(folder) / "long.sqlite3"))
    show("The ledger: ms, and what is bound to hold", ("what", "measured", "bound"), rows)


async def _submitting(path: Path) -> list[list[object]]:
    async with open_ledger(path) as ledger:
        began = perf_counter()

        async def submit_many() -> None:
            for _ in range(SUBMITTED_EACH):
                await ledger.submit(NewJob(prompt=PROMPT))

        await asyncio.gather(*(submit_many() for _ in range(SUBMITTERS)))
        rate = SUBMITTERS * SUBMITTED_EACH / (perf_counter() - began)

        waits: list[float] = []

        async def submit_due(due: float) -> None:
            await ledger.submit(NewJob(prompt=PROMPT))
            waits.append(perf_counter() - due)  # with what the loop was late

        began = perf_counter()
        async with asyncio.TaskGroup() as offered:
            for i in range(OFFERED_PER_S * OFFERED_S):
                due = began + i / OFFERED_PER_S
                if due > perf_counter():
                    await asyncio.sleep(due - perf_counter())
                offered.create_task(submit_due(due))
    return [
        [f"{SUBMITTERS} submitters, committed a second", f"{rate:,.0f}", "≥ 500"],
        [f"{OFFERED_PER_S}/s offered, median", _ms(_at(waits, 0.5)), ""],
        [f"{OFFERED_PER_S}/s offered, 99 %", _ms(_at(waits, 0.99)), "≤ 25"],
    ]


def _syncing(path: Path) -> list[list[object]]:
    """What the disk takes to keep 20 kB: no commit is quicker, and one may wait for another."""
    seconds: list[float] = []
    with path.open("wb", buffering=0) as file:
        file.write(bytes(4_000_000))
        os.fsync(file.fileno())
        for i in range(200):
            file.seek(20_000 * i)
            file.write(b"x" * 20_000)
            began = perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(perf_counter() - began)
    return [
        ["the disk's own fdatasync, median", _ms(_at(seconds, 0.5)), ""],
        ["the disk's own fdatasync, 99 %", _ms(_at(seconds, 0.99)), ""],
    ]


async def _long_queue(path: Path) -> list[list[object]]:
    async with open_ledger(path) as ledger:
        for _ in range(QUEUED // AT_ONCE):
            await asyncio.gather(*(ledger.submit(NewJob(prompt=PROMPT)) for _ in range(AT_ONCE)))
        await ledger.take(8)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = perf_counter()
    async with open_ledger(path) as ledger:
        await ledger.recover()
        opened = perf_counter() - began
        taken = await _median(lambda: ledger.take())
        count = await _median(lambda: ledger.counts())
        newest = await _median(lambda: ledger.queue())
        deep = await _median(lambda: ledger.queue(offset=QUEUED - 200))
        listed = await _median(lambda: ledger.jobs(limit=200))
        counted = (await ledger.counts()).remaining
    take_alone = _take_alone(path)
    async with open_ledger(path) as ledger:
        began = perf_counter()
        cancelled = await ledger.clear_queue()
        cleared = perf_counter() - began
        forgotten = await ledger.clear_history()
        cleared_history = perf_counter() - began - cleared
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    assert counted == QUEUED, f"{QUEUED:,} jobs were accepted, {counted:,} are there"
    return [
        [f"{QUEUED:,} queued: open and recover", _ms(opened), "≤ 1,000"],
        ["… take one, committed", _ms(taken), ""],
        ["… take one, without the commit", _ms(take_alone), "≤ 1"],
        ["… count", _ms(count), ""],
        ["… the newest 100 of the queue, with prompts", _ms(newest), ""],
        [f"… 100 of the queue from {QUEUED - 200:,} on, with prompts", _ms(deep), ""],
        ["… the newest 200 jobs, without", _ms(listed), ""],
        [f"… cancel all {cancelled:,}, a few at a time", _ms(cleared), ""],
        [f"… delete all {forgotten:,}, a few at a time", _ms(cleared_history), ""],
        ["… memory that all this took, MiB", f"{grown_mib:.0f}", ""],
    ]


def _take_alone(path: Path) -> float:
    """The median of the operation itself, on the writer's kind of connection."""
    connection = open_to_write(path)
    seconds: list[float] = []
    with transaction(connection):
        for _ in range(25):
            began = perf_counter()
            take(connection, 1, wall_clock_ms())
            seconds.append(perf_counter() - began)
    connection.close()
    return _at(seconds, 0.5)


async def _median(run: Callable[[], Awaitable[object]]) -> float:
    seconds: list[float] = []
    for _ in range(25):
        began = perf_counter()
        await run()
        seconds.append(perf_counter() - began)
    return _at(seconds, 0.5)


def _at(seconds: list[float], share: float) -> float:
    return sorted(seconds)[int(share * (len(seconds) - 1))]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.2f}"
