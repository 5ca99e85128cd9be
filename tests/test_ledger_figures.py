"""What checkpoints have done, and what was there when: counted as it is, and not forgotten."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import OUTPUTS, on_a_loop

from executor.ledger import Ledger, NewJob, State, figures, figures_read, open_ledger, schema
from executor.ledger.durations import ERROR, bin_of
from executor.ledger.figures import DAY_MS, HOUR_MS, MINUTE_MS
from executor.ledger.figures_read import WINDOWS, CheckpointFigures
from executor.ledger.presence import MOST_SILENT_MS, Span
from executor.ledger.records import Checkpoints

NOON_MS = 20_000 * DAY_MS + 12 * HOUR_MS


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


ONE = Checkpoints(("sd.safetensors",), {"9": 1})


async def run(
    ledger: Ledger,
    clock: Clock,
    *,
    waits_ms: int = 0,
    runs_ms: int = 0,
    state: State = State.SUCCEEDED,
    checkpoints: Checkpoints = ONE,
    worker: str = "cpu:0",
) -> str:
    """A job with a picture, from its submission to its end."""
    accepted = await ledger.submit(NewJob(prompt="{}", checkpoints=checkpoints))
    clock.now_ms += waits_ms
    (taken,) = await ledger.take()
    await ledger.assign(taken.id, taken.attempt, worker)
    clock.now_ms += runs_ms
    outputs = OUTPUTS if state is State.SUCCEEDED else {}
    assert await ledger.finish(taken.id, taken.attempt, state, outputs)
    return accepted.id


async def of(ledger: Ledger, name: str = "sd.safetensors") -> CheckpointFigures:
    return (await ledger.figures())[name]


@on_a_loop
async def test_jobs_are_counted_by_how_they_ended_however_they_ended(
    path: Path, clock: Clock
) -> None:
    async with open_ledger(path, clock) as ledger:
        for state in (State.SUCCEEDED, State.SUCCEEDED, State.FAILED, State.TIMED_OUT):
            await run(ledger, clock, state=state)
        new = NewJob(prompt="{}", checkpoints=ONE)
        by_hand = await ledger.submit(new)
        assert await ledger.cancel([by_hand.id])
        for _ in range(3):
            await ledger.submit(new)
        assert await ledger.clear_queue() == 3
        await ledger.submit(NewJob(prompt="{}", checkpoints=ONE, ttl_ms=5))
        clock.now_ms += 6
        assert await ledger.expire()
        await ledger.submit(new)
        (taken,) = await ledger.take()
        assert await ledger.requeue(taken.id, taken.attempt, has_died=True)
        (taken,) = await ledger.take()
        second = await ledger.requeue(taken.id, taken.attempt, has_died=True)
        assert second
        assert second.end
        found = await of(ledger)
        for counted in (found.total, *found.windows.values()):
            assert (counted.succeeded, counted.failed) == (2, 2)
            assert (counted.cancelled, counted.timed_out) == (4, 2)
            assert counted.requests == 10
            assert counted.success_rate == 2 / 6
            assert counted.pictures == 2


@on_a_loop
async def test_forgetting_the_history_leaves_the_figures(path: Path, clock: Clock) -> None:
    async with open_ledger(path, clock) as ledger:
        for _ in range(5):
            await run(ledger, clock, waits_ms=20, runs_ms=300)
        before = await of(ledger)
        assert await ledger.clear_history() == 5
        assert await of(ledger) == before
    async with open_ledger(path, clock) as ledger:
        assert await of(ledger) == before


@on_a_loop
async def test_durations_are_those_of_the_jobs_and_buckets_are_parts_of_the_windows(
    path: Path, clock: Clock
) -> None:
    draw = random.Random(0)
    drawn = [(draw.randrange(0, 5_000), draw.randrange(100, 60_000)) for _ in range(40)]
    async with open_ledger(path, clock) as ledger:
        for waits_ms, runs_ms in drawn:
            await run(ledger, clock, waits_ms=waits_ms, runs_ms=runs_ms)
        day = (await of(ledger)).windows["24h"]
        for percent in (50, 95, 99):
            rank = -(-percent * len(drawn) // 100) - 1
            for told, exact in (
                (day.waiting_ms(percent), sorted(waits for waits, _ in drawn)[rank]),
                (day.run_ms(percent), sorted(runs for _, runs in drawn)[rank]),
            ):
                assert told == pytest.approx(exact, rel=ERROR + 1e-9)
        assert day.running_ms == sum(runs for _, runs in drawn)
        assert day.pictures_per_second == 40 / day.running_ms * 1000
        for width_ms in (MINUTE_MS, 5 * MINUTE_MS, HOUR_MS):
            buckets = await ledger.figures_over_time(
                "sd.safetensors", span_ms=MINUTE_MS, width_ms=width_ms, after_ms=NOON_MS - 1
            )
            assert [one.since_ms for one in buckets] == sorted({b.since_ms for b in buckets})
            assert all(one.since_ms % width_ms == 0 for one in buckets)
            assert sum(one.figures.requests for one in buckets) == 40
            merged = [
                sum(one.figures.running.get(bin, 0) for one in buckets) for bin in day.running
            ]
            assert merged == [*day.running.values()]


@on_a_loop
async def test_a_window_ends_and_totals_do_not(path: Path, clock: Clock) -> None:
    async with open_ledger(path, clock) as ledger:
        await run(ledger, clock)
        for window, (length_ms, span_ms) in WINDOWS.items():
            clock.now_ms = NOON_MS + length_ms - span_ms
            assert (await of(ledger)).windows[window].requests == 1
            clock.now_ms = NOON_MS + length_ms + span_ms
            assert (await of(ledger)).windows[window].requests == 0
        found = await of(ledger)
        assert (found.total.requests, found.last_ms) == (1, NOON_MS)
        clock.now_ms = NOON_MS + 3 * DAY_MS
        await ledger.prune_figures()
        assert await ledger.figures_over_time(
            "sd.safetensors", span_ms=HOUR_MS, width_ms=HOUR_MS, after_ms=0
        )
        assert not await ledger.figures_over_time(
            "sd.safetensors", span_ms=MINUTE_MS, width_ms=HOUR_MS, after_ms=0
        )
        clock.now_ms = NOON_MS + 400 * DAY_MS
        await ledger.prune_figures()
        assert not await ledger.figures_over_time(
            "sd.safetensors", span_ms=HOUR_MS, width_ms=HOUR_MS, after_ms=0
        )
        assert await ledger.figures_over_time(
            "sd.safetensors", span_ms=DAY_MS, width_ms=DAY_MS, after_ms=0
        )
        clock.now_ms = NOON_MS + 4 * 366 * DAY_MS
        await ledger.prune_figures()
        assert not await ledger.figures_over_time(
            "sd.safetensors", span_ms=DAY_MS, width_ms=DAY_MS, after_ms=0
        )
        assert (await of(ledger)).total.requests == 1


@on_a_loop
async def test_a_job_of_several_counts_for_each_with_its_own_pictures_and_no_duration(
    path: Path, clock: Clock
) -> None:
    both = Checkpoints(("a", "b"), {"9": 2})  # what node 9 leaves is made with b
    async with open_ledger(path, clock) as ledger:
        await run(ledger, clock, runs_ms=100, checkpoints=both)
        found = await ledger.figures()
        assert [found[name].total.pictures for name in "ab"] == [0, 1]
        assert [found[name].windows["1h"].succeeded for name in "ab"] == [1, 1]
        assert [found[name].windows["1h"].run_ms(50) for name in "ab"] == [None, None]
        assert [found[name].windows["1h"].pictures_per_second for name in "ab"] == [None, None]


@on_a_loop
async def test_what_a_node_leaves_that_came_up_while_it_ran_is_everyones(
    path: Path, clock: Clock
) -> None:
    assert Checkpoints(("a", "b"), {"1": 1}).shares({"1": 2, "5.0.1": 1}) == [3, 1]
    kept = Checkpoints(("a", "b"), {"1": 1})
    assert Checkpoints.from_text(kept.text()) == kept
    assert Checkpoints.from_text(Checkpoints().text()) == Checkpoints()
    async with open_ledger(path, clock) as ledger:
        await run(ledger, clock, checkpoints=Checkpoints())
        assert await ledger.figures() == {}


@on_a_loop
async def test_workers_are_told_apart(path: Path, clock: Clock) -> None:
    async with open_ledger(path, clock) as ledger:
        for worker in ("cuda:0", "cuda:1", "cuda:1"):
            await run(ledger, clock, runs_ms=10, worker=worker)
        await run(ledger, clock, worker="cuda:1", state=State.FAILED)
        found = (await of(ledger)).providers
        assert [(one.worker, one.figures.requests) for one in found] == [
            ("cuda:0", 1),
            ("cuda:1", 3),
        ]
        assert [one.figures.success_rate for one in found] == [1, 2 / 3]


@on_a_loop
async def test_what_is_tried_again_does_not_only_wait(path: Path, clock: Clock) -> None:
    async with open_ledger(path, clock) as ledger:
        await ledger.submit(NewJob(prompt="{}", checkpoints=ONE))
        (taken,) = await ledger.take()
        await ledger.requeue(taken.id, taken.attempt, has_died=False)
        clock.now_ms += 500
        (taken,) = await ledger.take()
        clock.now_ms += 40
        await ledger.finish(taken.id, taken.attempt, State.SUCCEEDED)
        hour = (await of(ledger)).windows["1h"]
        assert hour.waiting_ms(50) is None
        assert hour.run_ms(50) == pytest.approx(40, rel=ERROR)


# What was there when


@on_a_loop
async def test_something_is_there_from_when_it_was_seen_until_it_is_not(
    path: Path, clock: Clock
) -> None:
    async with open_ledger(path, clock) as ledger:
        for seconds, names in ((0, ["a"]), (60, ["a", "b"]), (60, ["b"]), (60, ["a", "b"])):
            clock.now_ms += seconds * 1000
            await ledger.see("worker", names)
        a, b = await ledger.presence(0)
        at = [NOON_MS + minutes * MINUTE_MS for minutes in range(4)]
        assert (a.name, a.first_ms, a.spans) == (
            "a",
            at[0],
            (Span(at[0], at[2]), Span(at[3], at[3])),
        )
        assert (b.name, b.first_ms, b.spans) == ("b", at[1], (Span(at[1], at[3]),))
        clock.now_ms += 1
        assert (await ledger.presence(at[2]))[0].spans == (Span(at[3], at[3] + 1),)


@on_a_loop
async def test_a_row_is_added_by_a_change_only(path: Path, clock: Clock) -> None:
    async with open_ledger(path, clock) as ledger:
        for _ in range(50):
            clock.now_ms += 60_000
            await ledger.see("checkpoint", ["a"])
        (a,) = await ledger.presence(0)
        assert len(a.spans) == 1


@on_a_loop
async def test_nothing_was_there_while_nobody_looked(path: Path, clock: Clock) -> None:
    async with open_ledger(path, clock) as ledger:
        await ledger.see("worker", ["a"])
        clock.now_ms += MOST_SILENT_MS + 1
        await ledger.see("worker", ["a"])
        (a,) = await ledger.presence(0)
        assert [span.since_ms for span in a.spans] == [NOON_MS, clock.now_ms]
        assert a.spans[0].until_ms == NOON_MS
    async with open_ledger(path, clock) as ledger:  # the last process was killed
        clock.now_ms += 1000
        await ledger.see_anew()
        await ledger.see("worker", ["a"])
        (a,) = await ledger.presence(0)
        assert [span.since_ms for span in a.spans][-1] == clock.now_ms
        assert a.spans[1].until_ms < clock.now_ms


# The statements


@pytest.fixture
def year(path: Path) -> Iterator[sqlite3.Connection]:
    """Three checkpoints with an hour's figures for each hour of a year."""
    connection = schema.open_to_write(path)
    with schema.transaction(connection):
        for checkpoint in range(1, 4):
            connection.execute(figures.ADD, (str(checkpoint),))
            hours = range(NOON_MS - 365 * DAY_MS, NOON_MS, HOUR_MS)
            connection.executemany(
                "INSERT INTO figures VALUES (?, ?, ?, 1, 0, 0, 0, 1, 1, 900)",
                [(checkpoint, HOUR_MS, began_ms) for began_ms in hours],
            )
            connection.executemany(
                "INSERT INTO durations VALUES (?, ?, ?, 'running', ?, 1)",
                [(checkpoint, HOUR_MS, began_ms, bin_of(900)) for began_ms in hours],
            )
    yield connection
    connection.close()


def test_a_window_walks_no_rows_outside_it_though_there_is_a_year_of_them(
    year: sqlite3.Connection,
) -> None:
    at = {"checkpoint": 2, "span_ms": HOUR_MS, "width_ms": HOUR_MS, "after_ms": NOON_MS - DAY_MS}
    for statement in (figures_read.IN_WINDOW, figures_read.DURATIONS_IN_WINDOW):
        plan = [row["detail"] for row in year.execute(f"EXPLAIN QUERY PLAN {statement}", at)]
        assert "USING PRIMARY KEY (checkpoint=? AND span_ms=? AND began_ms>?)" in plan[0]
    assert figures_read.figures(year, NOON_MS)["2"].windows["7d"].requests == 7 * 24 - 1


@pytest.mark.parametrize("statement", [figures.NUMBER_OF, figures_read.NUMBER_OF])
def test_a_checkpoint_is_found_by_its_name(year: sqlite3.Connection, statement: str) -> None:
    (plan,) = year.execute(
        f"EXPLAIN QUERY PLAN {statement}", ("2",) * statement.count("?") or {"name": "2"}
    )
    assert plan["detail"].startswith("SEARCH checkpoints USING")
