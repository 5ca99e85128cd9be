"""The ledger as the front process uses it: every method is a coroutine, and none blocks the loop.

What a method that changes something has answered is on the disk, unless it says otherwise. One
process holds a ledger at a time. ``owner`` narrows to one owner's jobs; None is everybody's.
"""

import json
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from time import time_ns
from typing import Any

from executor.errors import LedgerError
from executor.ledger import (
    figures,
    figures_read,
    hooks,
    presence,
    queries,
    queue,
    results,
    retention,
)
from executor.ledger.figures_read import Bucket, CheckpointFigures
from executor.ledger.presence import Presence
from executor.ledger.reader import Reader
from executor.ledger.records import (
    Accepted,
    Counts,
    DueHook,
    EventKind,
    FullJob,
    JobEvent,
    JobFile,
    JobPage,
    JobRecord,
    NewJob,
    Requeued,
    State,
    TakenJob,
    is_unicode,
)
from executor.ledger.schema import explained, held, open_to_write
from executor.ledger.writer import Writer

BITE = 100
"""Jobs that are cancelled or deleted at a time where there may be many: some milliseconds, for
which others wait."""

DEFAULT_PAGE = 100

MAX_PAGE = 10_000
"""Of jobs or events; a caller that asks for more gets this many."""

MS_PER_DAY = 86_400_000


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time_ns() // 1_000_000


@asynccontextmanager
async def open_ledger(
    path: Path, now_ms: Callable[[], int] = wall_clock_ms
) -> AsyncGenerator["Ledger"]:
    """The ledger in this file, made if there is none, until the end of the block.

    Raises LedgerError if another process holds it, or if it is not, or no longer, a ledger.
    """
    async with AsyncExitStack() as opened:
        with explained(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                opened.enter_context(held(path))
                writer = Writer(open_to_write(path), path)
                opened.push_async_callback(writer.close)
                reader = Reader(path)
                opened.push_async_callback(reader.close)
            except OSError as error:
                raise LedgerError(f"ledger {path}: {error}") from error
        yield Ledger(writer, reader, now_ms)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Jobs, what became of them, and their events. Made by ``open_ledger``."""

    _writer: Writer
    _reader: Reader
    _now_ms: Callable[[], int]

    # The queue

    async def submit(self, new: NewJob, most_queued: int | None = None) -> Accepted:
        """Queue a job; the same again gets the same answer.

        Raises JobExists if another job has its id, JobRefused if its texts are no JSON, QueueFull
        if ``most_queued`` of its owner's wait already.
        """
        return await self._writer.do(lambda to: queue.submit(to, new, most_queued, self._now_ms()))

    async def take(self, limit: int = 1) -> tuple[TakenJob, ...]:
        """The next jobs, which run from now on, each under a new attempt.

        After a power cut they may be queued again, which is where they would be put then anyway.
        """
        return await self._writer.do(
            lambda to: queue.take(to, limit, self._now_ms()), is_synced=False
        )

    async def assign(self, job_id: str, attempt: int, worker: str) -> bool:
        """Note which worker a running job was given to; False if that attempt is not running.

        After a power cut no job runs, and nobody asks.
        """
        return await self._writer.do(
            lambda to: queue.assign(to, job_id, attempt, worker), is_synced=False
        )

    async def requeue(self, job_id: str, attempt: int, *, has_died: bool) -> Requeued | None:
        """Put a running job back in its old place; ``has_died`` if its worker is dead.

        At the second death it fails, with ``worker_lost``. None if that attempt is not running.
        """
        return await self._writer.do(
            lambda to: queue.requeue(to, job_id, attempt, has_died, self._now_ms())
        )

    async def retry(self, job_id: str, most_queued: int | None = None) -> bool:
        """Queue a job again that failed or timed out; False if there is none such.

        Raises QueueFull if ``most_queued`` of its owner's wait already.
        """
        return await self._writer.do(
            lambda to: queue.retry(to, job_id, most_queued, self._now_ms())
        )

    async def recover(self) -> int:
        """Put all running jobs back in their old places, at a start. Gives how many."""
        return await self._writer.do(queue.recover)

    async def cancel(
        self, job_ids: Iterable[str], owner: str | None = None
    ) -> tuple[JobEvent, ...]:
        """Cancel those of these jobs that are queued: the events of their ends."""
        ids = _known(job_ids)
        return await self._writer.do(lambda to: queue.cancel(to, ids, owner, self._now_ms()))

    async def clear_queue(self, owner: str | None = None, *, workflow_id: str | None = None) -> int:
        """Cancel all that is queued now, or all of one workflow. Gives how many."""
        rows = await self._reader.ask(lambda of: retention.waiting(of, owner, workflow_id))
        return await self._in_bites(
            rows, lambda to, bite: queue.cancel_rows(to, bite, self._now_ms())
        )

    async def expire(self) -> tuple[JobEvent, ...]:
        """Time out some queued jobs that have waited for too long: the events of their ends.

        To be called every second or so; ``take`` never gives out such a job anyway.
        """
        return await self._writer.do(lambda to: queue.expire(to, BITE, self._now_ms()))

    # What a running job reports

    async def record(
        self,
        job_id: str,
        attempt: int,
        kind: EventKind,
        data: str,
        files: Sequence[JobFile] = (),
    ) -> JobEvent | None:
        """Keep an event and the files that came with it; None if that attempt is not running."""
        return await self._writer.do(
            lambda to: results.record(to, job_id, attempt, kind, data, files, self._now_ms())
        )

    async def finish(
        self,
        job_id: str,
        attempt: int,
        state: State,
        outputs: results.Outputs | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> JobEvent | None:
        """End a running job: the event of its end; None if that attempt is not running."""
        assert state.is_over, f"a job does not end by being {state}"
        text = None if error is None else json.dumps(error, allow_nan=False)
        return await self._writer.do(
            lambda to: results.finish(
                to, job_id, attempt, state, outputs or {}, text, self._now_ms()
            )
        )

    # What is thrown away

    async def forget(self, job_ids: Iterable[str], owner: str | None = None) -> int:
        """Delete those of these jobs that are over. Gives how many."""
        ids = _known(job_ids)
        return await self._writer.do(lambda to: retention.forget(to, ids, owner))

    async def clear_history(self, owner: str | None = None) -> int:
        """Delete all jobs that are over now. Gives how many."""
        rows = await self._reader.ask(lambda of: retention.over(of, owner))
        return await self._in_bites(rows, retention.forget_rows)

    async def retain(self, most: int | None = None, days: float | None = None) -> int:
        """Delete jobs that are over, but the last ``most``, and those older than ``days``.

        Jobs that were cancelled before they ran are counted apart. Gives how many it deleted.
        """
        rows: list[int] = []
        if most is not None:
            rows += await self._reader.ask(lambda of: retention.surplus(of, most))
        if days is not None:
            before_ms = self._now_ms() - int(days * MS_PER_DAY)
            rows += await self._reader.ask(lambda of: retention.outdated(of, before_ms))
        return await self._in_bites(rows, retention.forget_told_rows)

    async def _in_bites(
        self, rows: Sequence[int], change: Callable[[Connection, Sequence[int]], int]
    ) -> int:
        """Change many jobs, a few at a time, so that others have their turn in between."""
        changed = 0
        for start in range(0, len(rows), BITE):
            bite = rows[start : start + BITE]
            changed += await self._writer.do(lambda to, bite=bite: change(to, bite))
        return changed

    # What is asked

    async def counts(self, owner: str | None = None) -> Counts:
        """How many jobs there are in each state; as quick with a million as with ten."""
        return await self._reader.ask(lambda of: queries.counts(of, owner))

    async def queue(
        self, limit: int = DEFAULT_PAGE, offset: int | None = None, owner: str | None = None
    ) -> tuple[FullJob, ...]:
        """Queued jobs, next first: from ``offset`` on, or without one the last submitted."""
        limit, offset = _page(limit), None if offset is None else _offset(offset)
        return await self._reader.ask(lambda of: queries.queue(of, limit, offset, owner))

    async def running(self, owner: str | None = None) -> tuple[FullJob, ...]:
        """All running jobs, in the order of submission."""
        return await self._reader.ask(lambda of: queries.running(of, owner))

    async def history(
        self, limit: int = DEFAULT_PAGE, offset: int | None = None, owner: str | None = None
    ) -> tuple[FullJob, ...]:
        """Jobs that ran and ended, oldest first: from ``offset`` on, or without one the newest."""
        limit, offset = _page(limit), None if offset is None else _offset(offset)
        return await self._reader.ask(lambda of: queries.history(of, limit, offset, owner))

    async def jobs(
        self,
        states: Collection[State] = tuple(State),
        *,
        limit: int = DEFAULT_PAGE,
        offset: int = 0,
        owner: str | None = None,
        sort: queries.Sort = "created",
        is_newest_first: bool = True,
    ) -> JobPage:
        """Jobs in any of these states, without their prompts."""
        limit, offset = _page(limit), _offset(offset)
        return await self._reader.ask(
            lambda of: queries.jobs(
                of, states, limit, offset, owner, sort, is_newest_first, self._now_ms()
            )
        )

    async def job(self, job_id: str, owner: str | None = None) -> FullJob | None:
        """A job with all that is kept of it, or None if there is none of that id."""
        if not is_unicode(job_id):
            return None
        return await self._reader.ask(lambda of: queries.job(of, job_id, owner))

    async def job_record(self, job_id: str, owner: str | None = None) -> JobRecord | None:
        """A job without what may be large, or None if there is none of that id."""
        if not is_unicode(job_id):
            return None
        return await self._reader.ask(lambda of: queries.job_record(of, job_id, owner))

    async def events_of_job(
        self, job_id: str, since: int = 0, limit: int = MAX_PAGE
    ) -> tuple[JobEvent, ...]:
        """A job's events with a ``seq`` above ``since``, in order; all its attempts'."""
        return await self._events(queries.OF_JOB, job_id, since, limit)

    async def events_of_client(
        self, client_id: str, since: int = 0, limit: int = MAX_PAGE, owner: str | None = None
    ) -> tuple[JobEvent, ...]:
        """The events above ``since`` of all jobs that a client submitted, in order."""
        return await self._events(queries.OF_CLIENT, client_id, since, limit, owner)

    async def events_of_owner(
        self, owner: str, since: int = 0, limit: int = MAX_PAGE
    ) -> tuple[JobEvent, ...]:
        """The events above ``since`` of all jobs of an owner, in order."""
        return await self._events(queries.OF_OWNER, owner, since, limit, owner)

    async def _events(
        self, statement: str, of_whom: str, since: int, limit: int, owner: str | None = None
    ) -> tuple[JobEvent, ...]:
        if not is_unicode(of_whom):
            return ()
        since, limit = _offset(since), _page(limit)
        return await self._reader.ask(
            lambda of: queries.events(of, statement, of_whom, since, limit, owner)
        )

    async def newest_seq(self) -> int:
        """The number of the last event, of whatever job; 0 before the first."""
        return await self._reader.ask(queries.newest_seq)

    # Files

    async def add_upload(self, filename: str, subfolder: str, type: str, owner: str) -> None:
        """Note whose a file is that no job left."""
        assert is_unicode(filename), "it is a file's name"
        await self._writer.do(
            lambda to: results.add_upload(to, filename, subfolder, type, owner), is_synced=False
        )

    async def file_owners(self, filename: str, subfolder: str, type: str) -> frozenset[str]:
        """Whose jobs left this file, and who uploaded it; nobody's, if that is not known."""
        if not all(map(is_unicode, (filename, subfolder, type))):
            return frozenset()
        return await self._reader.ask(lambda of: queries.file_owners(of, filename, subfolder, type))

    async def owners_of_files(self, type: str, names: Sequence[str]) -> list[frozenset[str]]:
        """The same of many files in one folder, each by its subfolder and name."""
        return await self._reader.ask(lambda of: queries.owners_of_files(of, type, names))

    # How models and workers do

    async def figures(self) -> dict[str, CheckpointFigures]:
        """What every checkpoint has done that was ever used, by its name."""
        return await self._reader.ask(lambda of: figures_read.figures(of, self._now_ms()))

    async def figures_over_time(
        self, name: str, *, span_ms: int, width_ms: int, after_ms: int
    ) -> tuple[Bucket, ...]:
        """What a checkpoint has done in buckets of so long, made up of minutes, hours or days."""
        if not is_unicode(name):
            return ()
        return await self._reader.ask(
            lambda of: figures_read.over_time(of, name, span_ms, width_ms, after_ms)
        )

    async def see(self, kind: presence.Kind, names: Collection[str]) -> None:
        """Note all of a kind that are there now; to be called once a minute, and at changes.

        After a power cut, what was there is known as of a little earlier.
        """
        await self._writer.do(
            lambda to: presence.see(to, kind, names, self._now_ms()), is_synced=False
        )

    async def see_anew(self) -> None:
        """Forget what was there when the last server ended, at a start: it may not be there now."""
        await self._writer.do(presence.end_all, is_synced=False)

    async def presence(self, after_ms: int) -> tuple[Presence, ...]:
        """All that was ever seen, and when it was there after that moment."""
        return await self._reader.ask(lambda of: presence.presence(of, after_ms, self._now_ms()))

    async def prune_figures(self) -> None:
        """Delete figures that are too old to be asked for; to be called once an hour or so."""
        now_ms = self._now_ms()
        await self._writer.do(lambda to: figures.prune(to, now_ms), is_synced=False)
        before_ms = now_ms - figures.KEPT_MS[figures.DAY_MS]
        await self._writer.do(lambda to: presence.prune(to, before_ms), is_synced=False)

    # Whom to tell

    async def due_hooks(
        self,
        limit: int,
        *,
        apart_from: Collection[str] = (),
        owners: Collection[str] = (),
        hosts: Collection[str] = (),
    ) -> tuple[DueHook, ...]:
        """Ends of jobs that are to be told now, those longest due first.

        Without these ids, and those of these owners and to these hosts.
        """
        # Copied, since a reader is another thread, and these may be the caller's own to change.
        of_whom = tuple(apart_from), tuple(owners), tuple(hosts)
        return await self._reader.ask(lambda of: hooks.due(of, limit, *of_whom, self._now_ms()))

    async def hook_told(self, hook_id: str) -> None:
        """An end was told, or is to be tried no more."""
        await self._writer.do(lambda to: hooks.told(to, hook_id))

    async def hook_failed(self, hook_id: str, pause_s: float) -> None:
        """An end could not be told; it is due again after a pause."""
        due_ms = self._now_ms() + int(pause_s * 1000)
        await self._writer.do(lambda to: hooks.failed(to, hook_id, due_ms))


def _known(job_ids: Iterable[str]) -> list[str]:
    """The ids that a job can have: SQLite takes no others."""
    return [job_id for job_id in job_ids if is_unicode(job_id)]


def _page(limit: int) -> int:
    return max(0, min(limit, MAX_PAGE))


def _offset(offset: int) -> int:
    """What SQLite can count to."""
    return max(0, min(offset, 2**62))
