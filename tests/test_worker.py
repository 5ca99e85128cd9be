"""A worker process runs what it is sent, tells what happens, and dies alone."""

import asyncio
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from executor.events import Ended, Executed, Failed, Outcome, Progress
from executor.fabric.local import LocalWorker
from executor.fabric.messages import (
    LENGTH,
    CancelJob,
    FromWorker,
    Ready,
    Rejected,
    RunJob,
    Stop,
    Told,
    framed,
    unframed,
)
from executor.settings import Settings

pytestmark = pytest.mark.timeout(60)  # a worker imports torch and diffusers

SINK: dict[str, Any] = {
    "1": {"class_type": "ToyNumber", "inputs": {"value": 4}},
    "2": {"class_type": "ToySink", "inputs": {"value": ["1", 0]}},
}
LONG: dict[str, Any] = {
    "1": {"class_type": "ToyLoad", "inputs": {}},
    "2": {"class_type": "ToySample", "inputs": {"model": ["1", 0], "steps": 2_000_000}},
    "3": {"class_type": "ToyKeep", "inputs": {"samples": ["2", 0]}},
}


class Watched:
    """A worker, and all that it has said."""

    def __init__(self, worker: LocalWorker) -> None:
        self.worker = worker
        self.said: list[FromWorker] = []
        self._news = asyncio.Event()
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self.worker.messages():
            self.said.append(message)
            self._news.set()

    async def until(self, kind: type, **values: Any) -> Any:
        """The first message (or event in one) of this kind with these attributes."""
        while True:
            self._news.clear()
            for message in self.said:
                thing = message.event if isinstance(message, Told) else message
                if isinstance(thing, kind) and all(
                    getattr(thing, k) == v for k, v in values.items()
                ):
                    return thing
            await self._news.wait()

    def run(self, job_id: str, prompt: dict[str, Any], attempt: int = 1) -> None:
        outputs = tuple(n for n in prompt if prompt[n]["class_type"] in ("ToySink", "ToyKeep"))
        self.worker.send(RunJob(job_id, attempt, prompt, {}, outputs))


async def started(base: Path) -> Watched:
    tests = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = tests
    try:
        settings = Settings(base_directory=base, device="cpu")
        return Watched(await LocalWorker.start(settings, ("toy_nodes",), threads=1))
    finally:
        del os.environ["PYTHONPATH"]


def test_a_worker_runs_a_job_and_stops_when_told(tmp_path):
    async def scene() -> None:
        watched = await started(tmp_path)
        ready = await watched.until(Ready)
        assert ready.device.type == "cpu"
        assert ready.capacity >= 1
        watched.run("a", SINK, attempt=3)
        executed = await watched.until(Executed, node_id="2")
        assert (tmp_path / "output" / executed.files[0].filename).read_text() == "4.0"
        assert (await watched.until(Ended)).outcome is Outcome.SUCCEEDED
        assert {told.attempt for told in watched.said if isinstance(told, Told)} == {3}
        watched.worker.send(Stop())
        assert await watched.worker.ended() == 0

    asyncio.run(scene())


def test_a_worker_takes_cancels_and_failures_while_it_works(tmp_path):
    async def scene() -> None:
        watched = await started(tmp_path)
        watched.run("long", LONG)
        await watched.until(Progress, job_id="long", value=5)
        watched.run("bad", {"1": {"class_type": "ToyFail", "inputs": {}}, **_sink_of("1")})
        failed = await watched.until(Failed, job_id="bad")
        assert failed.failure.message == "ToyFail (node 1): it had to be"
        assert "raise InputError" in "".join(failed.failure.traceback)
        assert (await watched.until(Ended, job_id="bad")).outcome is Outcome.FAILED
        watched.worker.send(CancelJob("long"))
        assert (await watched.until(Ended, job_id="long")).outcome is Outcome.CANCELLED
        watched.run(
            "gone", {"1": {"class_type": "ToyFile", "inputs": {"file": "no.png"}}, **_sink_of("1")}
        )
        rejected = await watched.until(Rejected)
        assert "no.png" in rejected.problems[0]
        watched.worker.kill()
        assert await watched.worker.ended() == -signal.SIGKILL
        await watched.listening  # the stream ends with the process

    asyncio.run(scene())


def _sink_of(node_id: str) -> dict[str, Any]:
    return {"2": {"class_type": "ToySink", "inputs": {"value": [node_id, 0]}}}


def test_no_message_makes_the_front_import_a_library():
    assert unframed(framed(Stop())[LENGTH.size :]) == Stop()
    for foreign in (torch.__version__, torch.float32, os.getcwd):
        with pytest.raises(pickle.UnpicklingError, match="has no place in a message"):
            unframed(pickle.dumps(foreign))
