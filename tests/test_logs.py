"""The log: a line for each thing that happened, which people and machines can read."""

import asyncio
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import on_a_loop
from servers import failing, open_gate, serving, sink, waiting

from executor.fabric.output import MOST_LINE_BYTES, WorkerOutput
from executor.logs import OWN_NAMES, about, formatter, log_to


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers
    yield root
    root.level, root.handlers = level, handlers
    logging.captureWarnings(capture=False)


def record(message: str, *arguments: object, **values: str | float) -> logging.LogRecord:
    """What a logger makes of a message and what it is about."""
    made = logging.LogRecord("executor.x", logging.INFO, __file__, 1, message, arguments, None)
    made.__dict__.update(about(**values))
    return made


@given(st.text(), st.text())
def test_a_line_of_json_is_one_line_and_gives_back_what_was_said(message, job):
    line = formatter("json").format(record("%s", message, job=job))
    assert line.isascii()
    assert line.isprintable()
    told = json.loads(line)
    assert told["message"] == message
    assert told.get("job", "") == job


def test_a_line_of_json_has_time_level_and_logger():
    told = json.loads(formatter("json").format(record("said", seconds=1.5)))
    assert told.pop("time").endswith("Z")
    assert told == {"level": "info", "logger": "executor.x", "message": "said", "seconds": 1.5}
    assert set(told) - {"seconds"} < OWN_NAMES


def test_a_traceback_is_in_its_line_of_json():
    try:
        raise ValueError("it had to be")
    except ValueError:
        failed = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    line = formatter("json").format(failed)
    assert "\n" not in line
    assert "ValueError: it had to be" in json.loads(line)["exception"]


def test_text_tells_what_it_is_about_behind_the_words_and_forges_no_line():
    line = formatter("text").format(record("job %s", "ended", job="a\nb", seconds=1.5))
    assert line.endswith(" INFO executor.x: job ended job='a\\nb' seconds=1.5")


def test_what_is_empty_is_left_out_and_a_lines_own_names_are_taken():
    assert about(job="", seconds=0) == {"about": {"seconds": 0}}
    with pytest.raises(AssertionError, match="level"):
        about(level="high")


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_whole_process_logs_to_one_stream(root, format):
    stream = io.StringIO()
    log_to(stream, format=format)
    logging.getLogger("weft").info("first")
    logging.getLogger("weft").debug("not told")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("second", stacklevel=1)
    first, second, *_ = stream.getvalue().splitlines()
    assert "first" in first
    assert "second" in second
    assert all(line.startswith("{") for line in (first, second)) == (format == "json")


def lines(caplog: pytest.LogCaptureFixture, job: str) -> list[tuple[str, dict]]:
    """What was logged of a job, without its requests."""
    return [
        (record.getMessage(), {k: v for k, v in values.items() if k != "job"})
        for record in caplog.records
        if (values := record.__dict__.get("about", {})).get("job") == job
        and record.name == "executor.api.job_log"
    ]


@pytest.mark.timeout(60)  # the first test of a process loads torch
@on_a_loop
async def scene_of_jobs(base: Path) -> None:
    async with serving(base, capacity=1) as server:
        await server.submit(sink(), prompt_id="fine", client_id="me")
        await server.submit(failing(), prompt_id="bad")
        await server.over("fine")
        await server.over("bad")
        await server.submit(waiting("gate"), prompt_id="long")
        await server.running("long")
        await server.submit(sink(5), prompt_id="unwanted")
        await server.post("/queue", {"delete": ["unwanted"]})
        await server.submit(sink(6), prompt_id="unwanted too")
        await server.post("/jobs/unwanted too/cancel")
        await server.submit(sink(7), prompt_id="cleared")
        await server.post("/queue", {"clear": True})
        await server.post("/interrupt", {"prompt_id": "long"})
        await server.over("long")
        open_gate("gate")


@pytest.mark.timeout(60)
def test_a_job_is_logged_from_its_submission_to_its_end(tmp_path, caplog):
    caplog.set_level("INFO", logger="executor")
    scene_of_jobs(tmp_path)
    submitted, started, ended = lines(caplog, "fine")
    assert submitted == ("job submitted", {"client": "me"})
    assert started[0] == "job started"
    assert started[1]["attempt"] == 1
    assert started[1]["waited_seconds"] >= 0
    assert ended[0] == "job ended"
    assert ended[1].pop("seconds") >= 0
    assert ended[1] == {"outcome": "succeeded"}
    *_, (_, bad) = lines(caplog, "bad")
    assert (bad["outcome"], bad["error"], bad["node"]) == ("failed", "InputError", "ToyFail")
    assert lines(caplog, "long")[-1][1]["outcome"] == "cancelled"
    for job in ("unwanted", "unwanted too"):
        assert [words for words, _ in lines(caplog, job)] == [
            "job submitted",
            "job given up in the queue",
        ]
    cleared = [r for r in caplog.records if r.getMessage() == "the queue was cleared"]
    assert [r.__dict__["about"] for r in cleared] == [{"jobs": 1}]
    ready = [r for r in caplog.records if r.getMessage() == "worker ready"]
    assert [r.__dict__["about"] for r in ready] == [{"worker": "cpu:0", "capacity": 1}]


async def output_of(program: str) -> None:
    """Run a program whose output goes where a worker's goes."""
    output = WorkerOutput("cpu")
    with await output.open() as writing:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program), stdout=writing, stderr=subprocess.STDOUT
        )
    assert await process.wait() == 0
    await output.close()


def told_by_workers(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines that were logged, which all say which worker wrote them."""
    assert all(record.__dict__["about"] == {"worker": "cpu"} for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


@on_a_loop
async def _output_is_told() -> None:
    await output_of(
        "import sys; print('one\\n\\ntwo', flush=True); print('bar 1\\rbar 2', file=sys.stderr);"
        "print('x' * 5000); sys.stdout.buffer.write(b'\\xff last')"
    )


def test_what_a_worker_prints_is_logged_line_by_line_to_its_last_word(caplog):
    _output_is_told()
    told = told_by_workers(caplog)
    long = [line for line in told if line.startswith("x")]
    assert sorted(set(told) - set(long)) == ["bar 1", "bar 2", "one", "two", "\ufffd last"]
    assert "".join(long) == "x" * 5000
    assert max(map(len, long)) <= MOST_LINE_BYTES


@on_a_loop
async def _someone_is_left() -> None:
    await output_of(
        "import subprocess, sys; print('said', flush=True);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3)'])"
    )


def test_a_process_that_a_worker_left_keeps_nobody_waiting_for_its_output(caplog):
    _someone_is_left()
    assert told_by_workers(caplog) == ["said"]
