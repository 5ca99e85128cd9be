"""The ledger's operations against a model in plain Python, in any order that hypothesis finds."""

import sqlite3
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import booleans, integers, none, sampled_from, sets

from executor.errors import JobExists
from executor.ledger import EventKind, NewJob, State, queries, queue, results, retention, schema

IDS = sampled_from([*"abcdefgh"])
ATTEMPTS = integers(1, 3)


@dataclass
class Modelled:
    """What a job should be."""

    id: str
    owner: str
    number: float
    order: int
    expires_ms: float
    state: State = State.QUEUED
    attempt: int = 0
    deaths: int = 0
    ended: int = 0
    events: list[tuple[EventKind, int]] = field(default_factory=list[Any])


class LedgerMachine(RuleBasedStateMachine):
    """Each rule does the same to the tables and to a dictionary."""

    @initialize()
    def begin(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.connection.execute("PRAGMA foreign_keys = ON")
        schema._migrate(self.connection)
        self.jobs: dict[str, Modelled] = {}
        self.now_ms = self.submitted = self.ends = 0

    def teardown(self) -> None:
        self.connection.close()

    def queued(self) -> list[Modelled]:
        found = [job for job in self.jobs.values() if job.state == State.QUEUED]
        return sorted(found, key=lambda job: (job.number, job.order))

    def over(self) -> list[Modelled]:
        return sorted((j for j in self.jobs.values() if j.ended), key=lambda job: job.ended)

    def running(self, id: str, attempt: int) -> Modelled | None:
        job = self.jobs.get(id)
        is_it = job and (job.state, job.attempt) == (State.RUNNING, attempt)
        return job if is_it else None

    def end(self, job: Modelled, state: State) -> None:
        self.ends += 1
        job.state, job.ended = state, self.ends
        job.events.append((EventKind.ENDED, job.attempt))

    @rule(
        id=IDS,
        owner=sampled_from(["", "ann"]),
        number=none() | sampled_from([-1, 0, 2.5]),
        is_front=booleans(),
        ttl_ms=none() | integers(1, 5),
    )
    def submit(
        self, id: str, owner: str, number: float | None, is_front: bool, ttl_ms: int | None
    ) -> None:
        new = NewJob(
            prompt="{}", id=id, owner=owner, number=number, is_front=is_front, ttl_ms=ttl_ms
        )
        there = self.jobs.get(id)
        if there and there.owner != owner:
            with pytest.raises(JobExists):
                queue.submit(self.connection, new, None, self.now_ms)
            return
        accepted = queue.submit(self.connection, new, None, self.now_ms)
        assert accepted.is_repeat == bool(there)
        if not there:
            self.submitted += 1
            order = self.submitted
            given = number if number is not None else -order if is_front else order
            expires_ms = float("inf") if ttl_ms is None else self.now_ms + ttl_ms
            self.jobs[id] = there = Modelled(id, owner, given, order, expires_ms)
        assert accepted.number == there.number

    @rule(limit=integers(0, 3))
    def take(self, limit: int) -> None:
        expected = [job for job in self.queued() if job.expires_ms > self.now_ms][:limit]
        for job in expected:
            job.state, job.attempt = State.RUNNING, job.attempt + 1
        taken = queue.take(self.connection, limit, self.now_ms)
        assert [(one.id, one.attempt) for one in taken] == [(j.id, j.attempt) for j in expected]

    @rule(id=IDS, attempt=ATTEMPTS, kind=sampled_from([EventKind.STARTED, EventKind.EXECUTED]))
    def record(self, id: str, attempt: int, kind: EventKind) -> None:
        job = self.running(id, attempt)
        event = results.record(self.connection, id, attempt, kind, "{}", (), self.now_ms)
        assert bool(event) == bool(job)
        if job:
            job.events.append((kind, attempt))

    @rule(id=IDS, attempt=ATTEMPTS, state=sampled_from([State.SUCCEEDED, State.CANCELLED]))
    def finish(self, id: str, attempt: int, state: State) -> None:
        job = self.running(id, attempt)
        event = results.finish(self.connection, id, attempt, state, {}, None, self.now_ms)
        assert bool(event) == bool(job)
        if job:
            self.end(job, state)

    @rule(id=IDS, attempt=ATTEMPTS, has_died=booleans())
    def requeue(self, id: str, attempt: int, has_died: bool) -> None:
        job = self.running(id, attempt)
        requeued = queue.requeue(self.connection, id, attempt, has_died, self.now_ms)
        assert bool(requeued) == bool(job)
        if job and requeued:
            job.state, job.deaths = State.QUEUED, job.deaths + has_died
            assert bool(requeued.end) == (job.deaths == queue.MAX_DEATHS)
            if requeued.end:
                self.end(job, State.FAILED)

    @rule()
    def recover(self) -> None:
        running = [job for job in self.jobs.values() if job.state == State.RUNNING]
        assert queue.recover(self.connection) == len(running)
        for job in running:
            job.state = State.QUEUED

    @rule(ids=sets(IDS, max_size=4), owner=sampled_from([None, "ann"]))
    def cancel(self, ids: set[str], owner: str | None) -> None:
        ended = queue.cancel(self.connection, sorted(ids), owner, self.now_ms)
        chosen = [
            job
            for job in sorted(self.queued(), key=lambda job: job.id)
            if job.id in ids and owner in (None, job.owner)
        ]
        assert [event.job_id for event in ended] == [job.id for job in chosen]
        for job in chosen:
            self.end(job, State.CANCELLED)

    @rule(owner=sampled_from([None, "ann"]))
    def clear_queue(self, owner: str | None) -> None:
        rows = retention.waiting(self.connection, owner)
        chosen = [job for job in self.queued() if owner in (None, job.owner)]
        assert queue.cancel_rows(self.connection, rows, self.now_ms) == len(chosen)
        for job in chosen:
            self.end(job, State.CANCELLED)

    @rule(passed_ms=integers(1, 5))
    def expire(self, passed_ms: int) -> None:
        self.now_ms += passed_ms
        ended = queue.expire(self.connection, 100, self.now_ms)
        expected = [job for job in self.queued() if job.expires_ms <= self.now_ms]
        assert {event.job_id for event in ended} == {job.id for job in expected}
        for event in ended:
            self.end(self.jobs[event.job_id], State.TIMED_OUT)

    @rule(ids=sets(IDS, max_size=4))
    def forget(self, ids: set[str]) -> None:
        chosen = [job for job in self.over() if job.id in ids]
        assert retention.forget(self.connection, ids, None) == len(chosen)
        for job in chosen:
            del self.jobs[job.id]

    @rule(most=integers(0, 3))
    def retain(self, most: int) -> None:
        rows = retention.surplus(self.connection, most)
        ran = [job for job in self.over() if job.attempt]
        waited = [job for job in self.over() if not job.attempt]
        doomed = [job for jobs in (ran, waited) for job in jobs[: max(0, len(jobs) - most)]]
        assert retention.forget_rows(self.connection, rows) == len(doomed)
        for job in doomed:
            del self.jobs[job.id]

    @invariant()
    def is_as_modelled(self) -> None:
        for id, job in self.jobs.items():
            found = queries.job_record(self.connection, id, None)
            assert found is not None
            assert (found.number, found.state) == (job.number, job.state)
            assert (found.attempt, found.deaths) == (job.attempt, job.deaths)
            told = queries.events(self.connection, queries.OF_JOB, id, 0, 1_000)
            assert [(event.kind, event.attempt) for event in told] == job.events

    @invariant()
    def counts_are_right(self) -> None:
        for owner in (None, "ann"):
            states = [job.state for job in self.jobs.values() if owner in (None, job.owner)]
            expected = {state: states.count(state) for state in State}
            assert queries.counts(self.connection, owner).of == expected

    @invariant()
    def lists_are_in_order(self) -> None:
        for owner in (None, "", "ann"):
            waiting = queries.queue(self.connection, 100, 0, owner)
            expected = [job.id for job in self.queued() if owner in (None, job.owner)]
            assert [job.record.id for job in waiting] == expected
            ended = queries.history(self.connection, 100, None, owner)
            ran = [job for job in self.over() if job.attempt]
            expected = [job.id for job in ran if owner in (None, job.owner)]
            assert [job.record.id for job in ended] == expected


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, database=None
)
