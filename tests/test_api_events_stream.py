"""A job's events as server-sent events."""

import asyncio
import json

import pytest
from ledgers import on_a_loop
from servers import failing, heard_until, open_gate, serving, sink, waiting

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


def read(text: str) -> list[dict]:
    """The events of a stream."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in lines:
            found.append({**lines, "id": int(lines["id"]), "data": json.loads(lines["data"])})
    return found


async def stream(server, job_id, **headers) -> list[dict]:
    """All events to the end of the stream."""
    async with server.client.get(f"/api/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        return read(await answer.text())


@on_a_loop
async def test_a_job_is_told_from_its_start_to_its_end(tmp_path):
    async with serving(tmp_path) as server:
        job_id = await server.submit(waiting("w"))
        streaming = asyncio.create_task(stream(server, job_id))
        await server.running(job_id)
        open_gate("w")
        events = await streaming
        assert [e["event"] for e in events] == ["execution_start", "execution_success"]
        assert [e["id"] for e in events] == sorted(e["id"] for e in events)
        assert all(e["data"]["prompt_id"] == job_id for e in events)


@on_a_loop
async def test_the_stream_has_what_the_websocket_has(tmp_path):
    async with serving(tmp_path) as server, server.connect("me", since=0) as ws:
        job_id = await server.submit(failing(), client_id="me")
        told = await heard_until(ws, "executing", node=None)
        numbered = [(m["seq"], m["type"], m["data"]) for m in told if "seq" in m]
        events = await stream(server, job_id)
        assert [(e["id"], e["event"], e["data"]) for e in events] == numbered


@on_a_loop
async def test_who_lost_the_connection_goes_on_where_it_was_and_then_stops(tmp_path):
    async with serving(tmp_path) as server:
        job_id = await server.submit(sink())
        events = await stream(server, job_id)
        assert [e["event"] for e in events] == ["execution_start", "executed", "execution_success"]
        later = await stream(server, job_id, **{"Last-Event-ID": str(events[0]["id"])})
        assert later == events[1:]
        last = {"Last-Event-ID": str(events[-1]["id"])}
        async with server.client.get(f"/jobs/{job_id}/events", headers=last) as answer:
            assert answer.status == 204  # an EventSource asks no more


@on_a_loop
async def test_a_job_that_is_cancelled_in_the_queue_ends_its_streams(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        await server.running(await server.submit(waiting("w")))
        for cancel in (
            lambda job_id: server.post("/queue", {"delete": [job_id]}),
            lambda job_id: server.post("/queue", {"clear": True}),
            lambda job_id: server.post(f"/jobs/{job_id}/cancel"),
        ):
            job_id = await server.submit(sink())
            answer = await server.client.get(f"/jobs/{job_id}/events")
            await cancel(job_id)
            (event,) = read(await answer.text())
            assert event["event"] == "execution_interrupted"


@on_a_loop
async def test_bad_numbers_and_unknown_jobs_are_refused(tmp_path):
    async with serving(tmp_path) as server:
        job_id = await server.submit(sink())
        await server.get("/jobs/nobody/events", status=404)
        for bad in ("x", "-1", "1.5", "9" * 50, "²"):
            headers = {"Last-Event-ID": bad}
            await server.get(f"/jobs/{job_id}/events", status=400, headers=headers)
        await server.get(f"/jobs/{job_id}/events?since=x", status=400)


@on_a_loop
async def test_streams_and_sockets_end_with_the_server(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        job_id = await server.submit(waiting("w"), client_id="me")
        answer = await server.client.get(f"/jobs/{job_id}/events")
        await heard_until(ws, "executing", node="1")
        closing = asyncio.create_task(server.client.server.close())
        assert [e["event"] for e in read(await answer.text())] == ["execution_start"]
        while not (frame := await ws.receive()).type.name.startswith("CLOS"):
            pass
        assert frame.data == 1001
        await closing
