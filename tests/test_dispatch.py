"""Jobs reach workers and come to exactly one end, whatever happens to the workers."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import toy_nodes

from executor.dispatch import Dispatcher, Happening
from executor.events import Ended, Progress
from executor.fabric.local import LocalWorker
from executor.ledger import JobEvent, Ledger, NewJob, State, open_ledger
from executor.paths import Folders
from executor.seats import Running, Seat
from executor.settings import Settings

pytestmark = pytest.mark.timeout(120)  # workers import torch and diffusers

assert toy_nodes  # the front knows the same classes


def sink(value: int) -> dict[str, Any]:
    return {
        "1": {"class_type": "ToyNumber", "inputs": {"value": value}},
        "2": {"class_type": "ToySink", "inputs": {"value": ["1", 0], "name": f"job {value}"}},
    }


def sampling(seed: int, steps: int) -> dict[str, Any]:
    return {
        "1": {"class_type": "ToyLoad", "inputs": {}},
        "2": {
            "class_type": "ToySample",
            "inputs": {"model": ["1", 0], "seed": seed, "steps": steps},
        },
        "3": {"class_type": "ToyMean", "inputs": {"latent": ["2", 0]}},
        "4": {"class_type": "ToySink", "inputs": {"value": ["3", 0], "name": f"sampled {seed}"}},
    }


ENDLESS = 10_000_000  # steps


class Front:
    """A dispatcher at work, and what it told."""

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher, base: Path) -> None:
        self.ledger, self.dispatcher, self.base = ledger, dispatcher, base
        self.told: list[tuple[str, Happening]] = []
        dispatcher.watchers.append(self._hear)

    def _hear(self, job: Running, happening: Happening, event: JobEvent | None) -> None:
        self.told.append((job.id, happening))

    async def submit(self, id: str, prompt: dict[str, Any], timeout_ms: int | None = None) -> None:
        outputs = tuple(n for n in prompt if prompt[n]["class_type"] == "ToySink")
        text = json.dumps(prompt)
        await self.ledger.submit(NewJob(id=id, prompt=text, targets=outputs, timeout_ms=timeout_ms))
        self.dispatcher.wake()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(90):
            while not holds():
                await asyncio.sleep(0.02)

    async def ended(self, id: str) -> State:
        await self.until(lambda: any(j == id and isinstance(e, Ended) for j, e in self.told))
        record = await self.ledger.job_record(id)
        assert record is not None
        return record.state

    async def sampling_on(self, id: str) -> Seat:
        """The seat of a job that has begun to sample."""

        def is_under_way() -> bool:
            mine = [e for j, e in self.told if j == id and isinstance(e, Progress)]
            return bool(mine) and any(id in seat.running for seat in self.dispatcher.seats)

        self.told = [(j, e) for j, e in self.told if j != id]
        await self.until(is_under_way)
        return next(seat for seat in self.dispatcher.seats if id in seat.running)

    async def kill_worker_of(self, id: str) -> None:
        """Kill the worker that samples for a job, and wait until that was noticed."""
        seat = await self.sampling_on(id)
        before = seat.restarts
        assert isinstance(seat.worker, LocalWorker)
        os.kill(seat.worker.pid, signal.SIGKILL)
        await self.until(lambda: seat.restarts > before)

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.base / "output").glob("*.txt"))


@asynccontextmanager
async def front(base: Path, workers: int = 1) -> AsyncGenerator[Front]:
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    settings = Settings(base_directory=base, device="cpu")
    folders = Folders(settings)
    start = partial(LocalWorker.start, settings, ("toy_nodes",), threads=1)
    try:
        async with open_ledger(base / "user" / "ledger") as ledger:
            await ledger.recover()
            dispatcher = Dispatcher(ledger, folders, {f"cpu {i}": start for i in range(workers)})
            dispatcher.start()
            try:
                yield Front(ledger, dispatcher, base)
            finally:
                await dispatcher.close(grace_s=1)
    finally:
        del os.environ["PYTHONPATH"]


def test_a_killed_worker_is_replaced_and_its_job_ends_once(tmp_path):
    async def scene() -> None:
        async with front(tmp_path) as it:
            await it.submit("long", sampling(1, 4000))
            await it.kill_worker_of("long")
            assert await it.ended("long") is State.SUCCEEDED
            assert it.files() == ["sampled 1_00001_.txt"]
            record = await it.ledger.job_record("long")
            assert record is not None
            assert (record.attempt, record.deaths) == (2, 1)

            await it.submit("deadly", sampling(2, ENDLESS))
            await it.kill_worker_of("deadly")
            await it.kill_worker_of("deadly")
            assert await it.ended("deadly") is State.FAILED
            job = await it.ledger.job("deadly")
            assert job is not None
            assert json.loads(job.record.error or "")["exception_type"] == "worker_lost"

    asyncio.run(scene())


def test_jobs_end_in_the_ledger_before_they_are_told_and_can_be_interrupted(tmp_path):
    async def scene() -> None:
        async with front(tmp_path, workers=2) as it:
            await it.submit("endless", sampling(3, ENDLESS))
            for value in range(5):
                await it.submit(f"job {value}", sink(value))
            for value in range(5):
                assert await it.ended(f"job {value}") is State.SUCCEEDED
            assert len(it.files()) == 5
            job = await it.ledger.job("job 3")
            assert job is not None
            assert json.loads(job.outputs)["2"]["images"][0]["filename"] == "job 3_00001_.txt"

            await it.sampling_on("endless")
            assert await it.dispatcher.interrupt("endless")
            assert await it.ended("endless") is State.CANCELLED
            assert not await it.dispatcher.interrupt("endless")

            bad = sampling(4, 3) | {"3": {"class_type": "ToyFail", "inputs": {"a": 1}}}
            await it.submit("bad", bad)
            assert await it.ended("bad") is State.FAILED
            failed = await it.ledger.job("bad")
            assert failed is not None
            error = json.loads(failed.record.error or "")
            assert (error["node_id"], error["node_type"]) == ("3", "ToyFail")

            await it.submit("slow", sampling(6, ENDLESS), timeout_ms=100)
            assert await it.ended("slow") is State.TIMED_OUT

            await it.submit("left", sampling(5, ENDLESS))
            await it.sampling_on("left")
        async with open_ledger(tmp_path / "user" / "ledger") as ledger:
            record = await ledger.job_record("left")
            assert record is not None
            assert record.state is State.QUEUED

    asyncio.run(scene())


def test_a_job_goes_where_its_results_are_unless_that_seat_is_much_busier(tmp_path):
    async def scene() -> None:
        async with front(tmp_path, workers=2) as it:
            await it.until(lambda: all(seat.ready for seat in it.dispatcher.seats))
            homes = set[str]()
            for round_ in range(4):
                await it.submit(f"again {round_}", sampling(7, 30 + round_))
                await it.ended(f"again {round_}")
                record = await it.ledger.job_record(f"again {round_}")
                assert record is not None
                homes.add(record.worker)
            assert len(homes) == 1  # the model is there
            await it.submit("busy", sampling(8, ENDLESS))
            busy = await it.sampling_on("busy")
            assert busy.name in homes
            busy.running["busy"].expected_s = 1000  # as if steps were known to be slow
            await it.submit("elsewhere", sampling(7, 90))
            await it.ended("elsewhere")
            record = await it.ledger.job_record("elsewhere")
            assert record is not None
            assert record.worker not in homes
            await it.dispatcher.interrupt("busy")

    asyncio.run(scene())
