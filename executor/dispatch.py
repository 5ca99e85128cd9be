"""Keeps the workers busy: takes jobs from the ledger, gives them out, writes back what comes.

One seat for each device; the worker in it is replaced when it dies, and its jobs are tried again.
Whoever watches is told of a job's end after the ledger has it.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from executor.events import Cached, Ended, Event, Executed, Failed, JobId, Outcome, Started
from executor.fabric.messages import (
    CancelJob,
    Figures,
    FreeMemory,
    FromWorker,
    Picture,
    Preview,
    Ready,
    Rejected,
    RunJob,
    Stop,
    Told,
)
from executor.ledger import EventKind, JobEvent, JobFile, Ledger, State, TakenJob
from executor.logs import about
from executor.paths import Folders
from executor.previews import method_of
from executor.seats import Running, Seat, Spawn, place

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before a worker that died young is replaced

STATES: Mapping[Outcome, State] = {
    Outcome.SUCCEEDED: State.SUCCEEDED,
    Outcome.FAILED: State.FAILED,
    Outcome.CANCELLED: State.CANCELLED,
    Outcome.TIMED_OUT: State.TIMED_OUT,
}


Happening: TypeAlias = Event | Preview | Picture
Kept: TypeAlias = asyncio.Future[JobEvent | None]
"""The ledger's answer to an event: the event as it has it, or None if it does not count."""

Watcher: TypeAlias = Callable[[Running, Happening, JobEvent | None], None]
"""Told what happened, in order over all jobs; of what is kept, the event as the ledger has it."""


class Dispatcher:
    """The seats, and the traffic between them and the ledger."""

    def __init__(self, ledger: Ledger, folders: Folders, spawns: Mapping[str, Spawn]) -> None:
        self.ledger, self.folders = ledger, folders
        self.seats = [Seat(name, spawn) for name, spawn in spawns.items()]
        self.watchers: list[Watcher] = []
        self.wants_previews: Callable[[Running], bool] = lambda job: False
        """Asked when a job starts: whether anybody will look at its previews."""
        self.presence_changed: Callable[[], None] = lambda: None
        """Called when a worker begins to take jobs, or is gone."""
        self._untold: deque[tuple[Running, Happening, Kept | None]] = deque()
        self.is_closing = False
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    # -- for the faces -------------------------------------------------------------------------

    def start(self) -> None:
        """Fill the seats and begin to take jobs."""
        for seat in self.seats:
            self._spawn_task(self._keep(seat))
        self._spawn_task(self._feed())

    def wake(self) -> None:
        """There is something new in the queue."""
        self._wake.set()

    def running(self) -> list[Running]:
        """What the workers have, oldest first."""
        jobs = [job for seat in self.seats for job in seat.running.values()]
        return sorted(jobs, key=lambda job: (job.taken.number, job.id))

    async def interrupt(self, job_id: JobId) -> bool:
        """End a running job now; the worker stops at its next step. False if it does not run."""
        for seat in self.seats:
            job = seat.running.get(job_id)
            if job is not None:
                if seat.worker:
                    seat.worker.send(CancelJob(job_id))
                await self._finish(seat, job, Outcome.CANCELLED)
                return True
        return False

    def free_memory(self) -> None:
        """Let all workers forget what they keep for later."""
        for seat in self.seats:
            seat.keys.clear()
            if seat.worker:
                seat.worker.send(FreeMemory())

    async def close(self, grace_s: float) -> None:
        """Take no more jobs; what has not ended in time is queued again, in its old place."""
        self.is_closing = True
        for seat in self.seats:
            if seat.worker and seat.running:
                seat.worker.send(Stop())
            elif seat.worker:
                seat.worker.kill()  # it may still be importing, and has nothing to lose
        busy = [task for task in self._tasks if not task.done()]
        self._wake.set()
        if busy:
            await asyncio.wait(busy, timeout=grace_s)
        for seat in self.seats:
            for job in list(seat.running.values()):
                del seat.running[job.id]
                await self._give_back(job)
            if seat.worker:
                seat.worker.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    # -- taking jobs ---------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Whenever there is room and work, bring them together."""
        while not self.is_closing:
            await self._wake.wait()
            self._wake.clear()
            while not self.is_closing and (room := sum(seat.room for seat in self.seats)) > 0:
                taken = await self.ledger.take(room)
                for job in taken:
                    self._assign(job)
                if not taken:
                    break

    def _assign(self, taken: TakenJob) -> None:
        """Give a job to the seat that is expected to end it first."""
        extra_data = json.loads(taken.body.extra_data)
        job = Running(taken, json.loads(taken.body.prompt), extra_data)
        seat = place(job, self.seats, self.folders)
        if seat is None:  # its worker died while the job was taken
            self._spawn_task(self._give_back(job))
            return
        self._spawn_task(self.ledger.assign(job.id, taken.attempt, seat.name))
        if taken.timeout_ms is not None:
            wait_s = taken.timeout_ms / 1000
            asyncio.get_running_loop().call_later(wait_s, self._time_out, seat, job)
        assert seat.worker is not None, "a seat with room has a worker"
        seat.worker.send(
            RunJob(
                job.id,
                taken.attempt,
                job.prompt,
                extra_data.get("extra_pnginfo") or {},
                taken.body.targets,
                wants_previews=self.wants_previews(job),
                preview_method=method_of(extra_data),
            )
        )

    def _time_out(self, seat: Seat, job: Running) -> None:
        """End a job that has run for as long as it may, if it still does."""
        if seat.running.get(job.id) is job:
            if seat.worker:
                seat.worker.send(CancelJob(job.id))
            words = f"it ran for longer than {job.taken.timeout_ms} ms, which was its limit"
            job.error = {"exception_type": "timed_out", "exception_message": words}
            self._spawn_task(self._finish(seat, job, Outcome.TIMED_OUT))

    async def _give_back(self, job: Running) -> None:
        await self.ledger.requeue(job.id, job.taken.attempt, has_died=False)

    # -- workers -------------------------------------------------------------------------------

    async def _keep(self, seat: Seat) -> None:
        """Keep a worker in a seat."""
        pause = FIRST_PAUSE_S
        while not self.is_closing:
            began = monotonic()
            worker = seat.worker = await seat.spawn()
            log.info("worker started", extra=about(worker=seat.name))
            async for message in worker.messages():
                self._hear(seat, message)
            code = await worker.ended()
            seat.worker = seat.ready = None
            self.presence_changed()
            seat.keys.clear()
            if self.is_closing and not seat.running:
                log.info("worker ended", extra=about(worker=seat.name))
                return
            seat.restarts += 1
            words = "worker ended with code %d; starting another"
            log.error(words, code, extra=about(worker=seat.name))
            for job in list(seat.running.values()):
                await self._lost(seat, job, code)
            if self.is_closing:
                return
            pause = FIRST_PAUSE_S if monotonic() - began > LONGEST_PAUSE_S else pause * 2
            await asyncio.sleep(min(pause, LONGEST_PAUSE_S) if pause > 2 * FIRST_PAUSE_S else 0)

    async def _lost(self, seat: Seat, job: Running, code: int) -> None:
        """A job's worker died: it is tried again, or given up if that was not the first time."""
        del seat.running[job.id]
        kept = self._spawn_task(self._try_again(job))
        self._tell(job, Ended(job.id, Outcome.FAILED), kept)
        if given_up := await kept:
            words = "job lost its worker (code %d) again and is given up"
            log.error(words, code, extra=about(job=job.id, worker=seat.name))
            job.error = json.loads(given_up.data)["error"]
        else:
            words = "job lost its worker (code %d) and is queued again"
            log.warning(words, code, extra=about(job=job.id, worker=seat.name))
        self.wake()

    async def _try_again(self, job: Running) -> JobEvent | None:
        """Put a job back whose worker died; the event of its end, if that was once too often."""
        requeued = await self.ledger.requeue(job.id, job.taken.attempt, has_died=True)
        return requeued.end if requeued else None

    def _hear(self, seat: Seat, message: FromWorker) -> None:
        """Take what a worker says; what belongs to an attempt that is over is not heard."""
        match message:
            case Ready():
                seat.ready = message
                self.presence_changed()
                extra = about(worker=seat.name, capacity=message.capacity)
                log.info("worker ready", extra=extra)
                self.wake()
            case Figures():
                seat.figures = message
            case Preview() | Picture():
                job = seat.running.get(message.job_id)
                if job and job.taken.attempt == message.attempt:
                    self._tell(job, message)
            case Rejected():
                job = seat.running.get(message.job_id)
                if job and job.taken.attempt == message.attempt:
                    words = "\n".join(message.problems)
                    job.error = {"exception_type": "WorkflowError", "exception_message": words}
                    self._spawn_task(self._finish(seat, job, Outcome.FAILED))
            case Told(attempt=attempt, event=event):
                job = seat.running.get(event.job_id)
                if job and job.taken.attempt == attempt:
                    self._follow(seat, job, event)

    def _follow(self, seat: Seat, job: Running, event: Event) -> None:
        """Note what is to be kept of an event, and tell whoever watches."""
        kept = None
        match event:
            case Started():
                kept = self._record(job, EventKind.STARTED, {})
            case Cached(node_ids=node_ids):
                kept = self._record(job, EventKind.CACHED, {"nodes": list(node_ids)})
            case Executed(node_id=node_id, files=files):
                job.executed.append(node_id)
                if files:
                    output: dict[str, list[Any]] = {}
                    for file in files:
                        shown = {"filename": file.filename, "subfolder": file.subfolder}
                        output.setdefault(file.kind, []).append({**shown, "type": file.type})
                    if any(file.is_animated for file in files):
                        output["animated"] = [True]  # of them all, as ComfyUI says it
                    job.outputs[node_id] = output
                    left = [JobFile(f.filename, f.subfolder, f.type, node_id) for f in files]
                    data = {"node": node_id, "output": output}
                    kept = self._record(job, EventKind.EXECUTED, data, left)
            case Failed(node_id=node_id, failure=failure):
                job.error = job.error or {
                    "node_id": node_id,
                    "node_type": failure.class_type,
                    "exception_message": failure.message,
                    "exception_type": failure.exception_type,
                    "traceback": list(failure.traceback),
                    "executed": list(job.executed),
                }
                data = {"node": node_id, "message": failure.message}
                kept = self._record(job, EventKind.FAILED, data)
            case Ended(outcome=outcome):
                self._spawn_task(self._finish(seat, job, outcome))
                return  # told when the ledger has it
            case _:
                pass
        self._tell(job, event, kept)

    def _record(
        self, job: Running, kind: EventKind, data: Mapping[str, Any], files: Sequence[JobFile] = ()
    ) -> "asyncio.Task[JobEvent | None]":
        """Keep an event; the ledger keeps the order in which it was asked to."""
        text = json.dumps(data)
        return self._spawn_task(self.ledger.record(job.id, job.taken.attempt, kind, text, files))

    async def _finish(self, seat: Seat, job: Running, outcome: Outcome) -> None:
        """Write a job's end, then tell it. Once: a job that is over has left its seat."""
        if seat.running.pop(job.id, None) is None:
            return
        self.wake()
        finish = self.ledger.finish(
            job.id,
            job.taken.attempt,
            STATES[outcome],
            job.outputs,
            job.error,
        )
        kept = self._spawn_task(finish)
        self._tell(job, Ended(job.id, outcome), kept)
        await asyncio.wait([kept])

    def _tell(self, job: Running, happening: Happening, kept: Kept | None = None) -> None:
        """Tell the watchers, behind all that happened before; what is kept once it is kept.

        In the order of the ledger's numbers, so that whoever saw one has seen all below it.
        """
        self._untold.append((job, happening, kept))
        if kept is not None and not kept.done():
            kept.add_done_callback(lambda _: self._tell_on())
        self._tell_on()

    def _tell_on(self) -> None:
        """Tell what need not be waited for any more."""
        while self._untold:
            job, happening, kept = self._untold[0]
            if kept is not None and not kept.done():
                return
            self._untold.popleft()
            event = None
            if kept is not None:
                event = None if kept.cancelled() or kept.exception() else kept.result()
                if event is None:  # of an attempt that is over
                    continue
            for watcher in self.watchers:
                watcher(job, happening, event)

    def _spawn_task(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run something beside; a fault in it is logged, and nothing else stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("dispatch: %s", error, exc_info=error)
