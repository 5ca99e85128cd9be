"""The websocket: who is told what, in which order, and what a client that was away can catch up."""

import asyncio
import json
import struct
from io import BytesIO
from typing import Any

import pytest
from aiohttp import WSMsgType
from ledgers import on_a_loop
from PIL import Image
from servers import (
    Served,
    failing,
    heard,
    heard_until,
    open_gate,
    sampling,
    serving,
    sink,
    waiting,
)

from executor.api.keys import HUB
from executor.api.outbox import Message
from executor.fabric.messages import Preview
from executor.node import Node
from nodes.output import SaveImageWebsocket

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch

assert SaveImageWebsocket in Node.registry.values(), "importing it registers it"

FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


def types(told, *, without=("status", "progress_state")):
    return [m["type"] for m in told if isinstance(m, dict) and m["type"] not in without]


async def all_of(ws, job_id):
    """All messages to the very end of a job."""
    return await heard_until(ws, "executing", node=None, prompt_id=job_id)


@on_a_loop
async def test_the_first_message_is_the_status_with_the_clients_id(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws, server.connect() as other:
        first = await heard(ws)
        assert first == {
            "type": "status",
            "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"},
        }
        assert len((await heard(other))["data"]["sid"]) == 32  # one of its own


@on_a_loop
async def test_a_run_is_told_in_the_order_that_clients_rely_on(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        job_id = await server.submit(sink(), client_id="me")
        told = await all_of(ws, job_id)
        assert types(told) == [
            "execution_start",
            "executing",
            "executing",
            "executed",
            "execution_success",
            "executing",
        ]
        end = [m["type"] for m in told].index("execution_success")
        after = told[end + 1 :]
        assert [m["type"] for m in after] == ["status", "executing"]
        assert after[0]["data"]["status"]["exec_info"]["queue_remaining"] == 0
        before = [m for m in told[1:end] if m["type"] == "status"]
        assert [m["data"]["status"]["exec_info"]["queue_remaining"] for m in before] == [1]
        (executed,) = [m["data"] for m in told if m["type"] == "executed"]
        assert executed["node"] == executed["display_node"] == "2"
        assert executed["prompt_id"] == job_id
        assert executed["output"]["images"][0]["type"] == "output"
        states = [m["data"]["nodes"] for m in told if m["type"] == "progress_state"]
        assert states[-1]["2"]["state"] == "finished"
        assert states[-1]["2"]["node_id"] == "2"


@on_a_loop
async def test_the_history_has_the_job_when_its_end_is_told(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        job_id = await server.submit(sink(), client_id="me")
        await heard_until(ws, "execution_success")
        assert job_id in await server.get(f"/history/{job_id}")


@on_a_loop
async def test_a_cached_run_tells_its_stored_outputs(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        first = await all_of(ws, await server.submit(sink(), client_id="me"))
        again = await all_of(ws, await server.submit(sink(), client_id="me"))
        assert types(again) == [
            "execution_start",
            "execution_cached",
            "executed",
            "execution_success",
            "executing",
        ]
        (cached,) = [m["data"] for m in again if m["type"] == "execution_cached"]
        assert set(cached["nodes"]) == {"1", "2"}
        outputs = [
            m["data"]["output"] for t in (first, again) for m in t if m["type"] == "executed"
        ]
        assert outputs[0] == outputs[1]


@on_a_loop
async def test_progress_is_told_as_whole_numbers(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        told = await all_of(ws, await server.submit(sampling(5, seed=77), client_id="me"))
        progress = [m["data"] for m in told if m["type"] == "progress"]
        assert progress[-1]["value"] == progress[-1]["max"] == 5
        assert all(type(p["value"]) is int and p["node"] == "2" for p in progress)
        kept = [m["data"] for m in told if m["type"] == "executed"]
        assert [k["node"] for k in kept] == ["3"]  # an output node that left no file
        assert kept[0]["output"] is None


@on_a_loop
async def test_only_the_submitting_client_is_told_but_all_of_its_sockets(tmp_path):
    async with (
        serving(tmp_path) as server,
        server.connect("me") as ws,
        server.connect("me") as second,
        server.connect("you") as other,
    ):
        job_id = await server.submit(sink(), client_id="me")
        nobodys = await server.submit(sink(5))
        told, same = await all_of(ws, job_id), await all_of(second, job_id)
        assert types(told) == types(same)
        await server.over(nobodys)
        await server.submit(sink(6), client_id="you")
        yours = await heard_until(other, "execution_start")
        assert {m["type"] for m in yours[:-1]} == {"status"}


@on_a_loop
async def test_the_client_id_may_stand_in_the_address(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        answer = await server.post("/prompt?clientId=me", {"prompt": sink()})
        assert await all_of(ws, answer["prompt_id"])


@on_a_loop
async def test_a_failure_is_told_at_the_end_with_node_and_traceback(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        job_id = await server.submit(failing(), client_id="me")
        told = await all_of(ws, job_id)
        assert types(told)[-2:] == ["execution_error", "executing"]
        (error,) = [m["data"] for m in told if m["type"] == "execution_error"]
        assert error["node_id"] == "3"
        assert error["node_type"] == "ToyFail"
        assert error["exception_type"] == "InputError"
        assert error["exception_message"] == "ToyFail (node 3): it had to be"
        assert "raise InputError" in "".join(error["traceback"])
        assert error["prompt_id"] == job_id
        assert [m["data"]["node"] for m in told if m["type"] == "executed"] == ["2"]
        assert "node_error" not in types(told)  # stock clients do not know it


@on_a_loop
async def test_an_interruption_is_told_to_all(tmp_path):
    async with (
        serving(tmp_path) as server,
        server.connect("me") as ws,
        server.connect("you") as other,
    ):
        job_id = await server.submit(waiting("w"), client_id="me")
        await heard_until(ws, "executing", node="1")
        await server.post("/interrupt", {"prompt_id": job_id})
        for socket in (ws, other):
            told = await heard_until(socket, "execution_interrupted")
            assert told[-1]["data"]["prompt_id"] == job_id
            assert told[-1]["data"]["node_id"] == "1"
            assert told[-1]["data"]["node_type"] == "ToyWait"


@on_a_loop
async def test_a_client_that_comes_back_is_told_what_runs(tmp_path):
    async with serving(tmp_path) as server:
        async with server.connect("me") as ws:
            job_id = await server.submit(waiting("w"), client_id="me")
            await heard_until(ws, "executing", node="1")
        async with server.connect("me") as ws, server.connect("you") as other:
            assert (await heard(ws))["data"]["sid"] == "me"
            assert await heard(ws) == {
                "type": "executing",
                "data": {"node": "1", "prompt_id": job_id, "display_node": "1"},
            }
            open_gate("w")
            await all_of(ws, job_id)
            told = await heard_until(other, "status", status={"exec_info": {"queue_remaining": 0}})
            assert {m["type"] for m in told} == {"status"}


# Replay


@on_a_loop
async def test_a_client_that_was_away_gets_all_it_missed_once(tmp_path):
    async with serving(tmp_path) as server:
        async with server.connect("me") as ws:
            told = await all_of(ws, await server.submit(sink(), client_id="me"))
        seen = [m["seq"] for m in told if "seq" in m]
        missed = await server.submit(failing(), client_id="me")
        await server.submit(sink(9), client_id="you")
        await server.over(missed)
        async with server.connect("me", since=seen[-1]) as ws:
            caught_up = await heard_until(ws, "replayed")
        types_ = types(caught_up)
        assert types_[0] == "execution_start"
        assert "node_error" in types_
        assert types_[-2:] == ["execution_error", "replayed"]
        numbers = [m["seq"] for m in caught_up if "seq" in m]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > seen[-1]
        assert caught_up[-1]["data"] == {"since": seen[-1], "seq": numbers[-1]}
        assert {m["data"].get("prompt_id") for m in caught_up if "seq" in m} == {missed}


@on_a_loop
async def test_what_is_replayed_is_what_was_told_live(tmp_path):
    async with serving(tmp_path) as server, server.connect("me", since=0) as ws:
        await heard_until(ws, "replayed")
        told = await all_of(ws, await server.submit(failing(), client_id="me"))
        live = [m for m in told if "seq" in m]
        await ws.send_str('{"type":"replay","data":{"since":0}}')
        again = [m for m in await heard_until(ws, "replayed") if "seq" in m]
        assert again == live
        assert [m["seq"] for m in live] == sorted(m["seq"] for m in live)


@on_a_loop
async def test_events_during_a_replay_come_behind_it_and_once(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        for number in range(20):
            await server.submit(sink(number), client_id="me")
        job_id = await server.submit(sink(99), client_id="me")
        await heard_until(ws, "execution_start")
        await ws.send_str('{"type":"replay","data":{"since":0}}')
        told = await all_of(ws, job_id)
        start = max(i for i, m in enumerate(told) if m.get("seq") == 1)  # the replay's
        before = [m["seq"] for m in told[:start] if "seq" in m]
        assert before == list(range(2, len(before) + 2))  # nobody has seen one and not those below
        numbers = [m["seq"] for m in told[start:] if "seq" in m]
        assert numbers == list(range(1, numbers[-1] + 1))


@on_a_loop
async def test_who_keeps_count_hears_of_jobs_that_were_given_up_in_the_queue(tmp_path):
    async with serving(tmp_path, capacity=1) as server, server.connect("me", since=0) as ws:
        await server.running(await server.submit(waiting("w"), client_id="me"))
        ids = [await server.submit(sink(i), client_id="me") for i in range(4)]
        await server.submit(sink(9), client_id="you")
        await server.post("/queue", {"delete": [ids[0]]})
        await server.post(f"/jobs/{ids[1]}/cancel")
        await server.post("/queue", {"clear": True})
        told = await heard_until(ws, "execution_interrupted", prompt_id=ids[3])
        over = [m for m in told if m["type"] == "execution_interrupted"]
        assert [m["data"]["prompt_id"] for m in over] == ids
        numbers = [m["seq"] for m in over]
        assert numbers == sorted(set(numbers))


# Previews


async def preview(server: Served, job_id: str, jpeg: bytes = b"jpeg") -> None:
    """Have the worker send a preview, as it does while it samples."""
    server.workers[0].say(Preview(job_id, 1, "1", jpeg))


@on_a_loop
async def test_previews_go_to_those_who_said_they_understand_them(tmp_path):
    async with (
        serving(tmp_path) as server,
        server.connect("me") as ws,
        server.connect("me") as plain,
    ):
        await ws.send_str(json.dumps(FLAGS))
        answer = (await heard_until(ws, "feature_flags"))[-1]
        assert answer["data"] == {
            "supports_preview_metadata": True,
            "max_upload_size": 104_857_600,
        }
        assert await server.get("/features") == answer["data"]
        job_id = await server.submit(waiting("w"), client_id="me")
        await heard_until(ws, "executing", node="1")
        await preview(server, job_id)
        while not isinstance(frame := await heard(ws), bytes):
            pass
        kind, length = struct.unpack(">II", frame[:8])
        assert kind == 4
        metadata = json.loads(frame[8 : 8 + length])
        assert metadata["node_id"] == metadata["display_node_id"] == "1"
        assert metadata["prompt_id"] == job_id
        assert metadata["image_type"] == "image/jpeg"
        assert frame[8 + length :] == b"jpeg"
        open_gate("w")
        assert all(isinstance(message, dict) for message in await all_of(plain, job_id))


@on_a_loop
async def test_a_job_may_ask_for_plain_previews(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        extra = {"preview_method": "auto"}
        job_id = await server.submit(waiting("w"), client_id="me", extra_data=extra)
        await heard_until(ws, "executing", node="1")
        assert server.app is not None
        await preview(server, job_id)
        while not isinstance(frame := await heard(ws), bytes):
            pass
        assert frame == b"\0\0\0\1\0\0\0\1jpeg"


@on_a_loop
async def test_the_worker_makes_previews_only_if_somebody_wants_them(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        wants = server.dispatcher.wants_previews
        await ws.send_str(json.dumps(FLAGS))
        await heard_until(ws, "feature_flags")
        asked = {
            "yours": ("you", {}),
            "mine": ("me", {}),
            "asked": ("you", {"preview_method": "latent2rgb"}),
            "declined": ("me", {"preview_method": "none"}),
            "nobodys": ("", {}),
        }
        found = {}
        for name, (client_id, extra) in asked.items():
            job_id = await server.submit(waiting(name), client_id=client_id, extra_data=extra)
            await server.running(job_id)
            (job,) = [job for job in server.dispatcher.running() if job.id == job_id]
            found[name] = wants(job)
            open_gate(name)
            await server.over(job_id)
        assert [name for name, wanted in found.items() if wanted] == ["mine", "asked"]


# Results


def websocket(count: int = 2) -> dict[str, Any]:
    """Two pictures of red, of 6 × 4 pixels, sent and not kept, beside another output."""
    empty = {"width": 6, "height": 4, "batch_size": count, "color": 0xFF0000}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "ws": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "ToySink", "inputs": {"value": 1}},
    }


def sent_by(told: list[Any], node_id: str) -> list[bytes]:
    """The frames that came while a client took this node for the one that runs."""
    frames: list[bytes] = []
    current = None
    for message in told:
        if isinstance(message, bytes):
            assert current == node_id
            frames.append(message)
        elif message["type"] == "executing":
            current = message["data"]["node"]
    return frames


def red(png: bytes) -> bool:
    with Image.open(BytesIO(png)) as picture:
        colours = picture.getcolors()
        return (picture.format, picture.size, colours) == ("PNG", (6, 4), [(24, (255, 0, 0))])


@on_a_loop
async def test_pictures_are_sent_to_the_client_of_the_job_and_to_nobody_else(tmp_path):
    async with (
        serving(tmp_path) as server,
        server.connect("me") as ws,
        server.connect("you") as other,
    ):
        extra = {"preview_method": "none"}  # which results are not
        for _ in range(2):  # the second time all else is known already
            job_id = await server.submit(websocket(), client_id="me", extra_data=extra)
            told = await all_of(ws, job_id)
            frames = sent_by(told, "ws")
            assert [frame[:8] for frame in frames] == [b"\0\0\0\1\0\0\0\2"] * 2
            assert all(red(frame[8:]) for frame in frames)
            assert not any("temp" in str(message) for message in told)
        (you,) = server.app[HUB].of("you", "")
        you.post(Message("that was all"))
        while (text := await other.receive()).data != "that was all":
            assert text.type is WSMsgType.TEXT


@on_a_loop
async def test_a_client_that_knows_metadata_is_told_whose_picture_it_is(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        await ws.send_str(json.dumps(FLAGS))
        await heard_until(ws, "feature_flags")
        job_id = await server.submit(websocket(1), client_id="me")
        (frame,) = sent_by(await all_of(ws, job_id), "ws")
        kind, length = struct.unpack(">II", frame[:8])
        metadata = json.loads(frame[8 : 8 + length])
        assert (kind, metadata["image_type"]) == (4, "image/png")
        assert (metadata["node_id"], metadata["prompt_id"]) == ("ws", job_id)
        assert red(frame[8 + length :])


@on_a_loop
async def test_a_picture_for_nobody_is_logged_and_harms_nothing(tmp_path, caplog):
    async with serving(tmp_path) as server:
        job_id = await server.submit(websocket(1), client_id="gone")
        await server.over(job_id)
        assert (await server.get(f"/history/{job_id}"))[job_id]["status"]["completed"]
    assert "nobody is there for the picture that node ws sends; SaveImage keeps" in caplog.text


@on_a_loop
async def test_moving_pictures_are_told_to_be_such(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        prompt = websocket()
        prompt["ws"] = {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["1", 0]}}
        job_id = await server.submit(prompt, client_id="me")
        told = await all_of(ws, job_id)
        outputs = {m["data"]["node"]: m["data"]["output"] for m in told if m["type"] == "executed"}
        saved = {"filename": "ComfyUI_00001_.webp", "subfolder": "", "type": "output"}
        assert outputs["ws"] == {"images": [saved], "animated": [True]}
        assert "animated" not in outputs["3"]
        (listed,) = (await server.get("/jobs"))["jobs"]
        assert listed["outputs_count"] == 2  # files


# Bad input


@on_a_loop
async def test_what_a_client_says_cannot_harm(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        for words in (
            "",
            "{",
            "null",
            "[]",
            '{"type":1}',
            '{"type":"feature_flags","data":[]}',
            '{"type":"replay","data":{"since":"x"}}',
            '{"type":"replay","data":{"since":-1}}',
            '{"type":"replay","data":{"since":NaN}}',
            "[" * 50_000,
            '{"type":"replay","data":{"since":' + "9" * 5_000 + "}}",
        ):
            await ws.send_str(words)
        await ws.send_bytes(b"\xff\xff")
        assert await all_of(ws, await server.submit(sink(), client_id="me"))


@on_a_loop
async def test_a_giant_frame_ends_the_connection_and_nothing_else(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws, server.connect("me") as ok:
        await ws.send_str("x" * 2_000_000)
        while (frame := await ws.receive()).type is WSMsgType.TEXT:
            pass
        assert frame.type in (WSMsgType.CLOSE, WSMsgType.ERROR, WSMsgType.CLOSED)
        assert await all_of(ok, await server.submit(sink(), client_id="me"))


@on_a_loop
async def test_a_flood_ends_the_connection(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        for _ in range(500):
            await ws.send_str("{}")
        while (frame := await ws.receive()).type is WSMsgType.TEXT:
            pass
        assert frame.type is WSMsgType.CLOSE
        assert frame.data == 1008


@on_a_loop
async def test_an_id_that_is_none_is_refused(tmp_path):
    async with serving(tmp_path) as server:
        for bad in ("a\nb", "x" * 300):
            answer = await server.get("/ws", status=400, params={"clientId": bad})
            assert "clientId" in answer["error"]["message"]
        answer = await server.get("/ws", status=400)
        assert answer["error"]["type"] == "not_a_websocket"


@on_a_loop
async def test_a_client_that_does_not_read_holds_nobody_up_and_is_cut_off(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.client.port, limit=1024)
        writer.write(
            b"GET /ws?clientId=me HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        job_id = await server.submit(waiting("w"), client_id="me")
        await heard_until(ws, "executing", node="1")
        hub = server.app[HUB]
        assert len(hub.of("me", "")) == 2
        while (
            len(hub.of("me", "")) == 2
        ):  # 1 MB at a time, until its kernel and its outbox are full
            for socket in list(hub.of("me", "")):
                socket.post(Message(json.dumps({"type": "x", "data": "y" * 1_000_000})))
            await heard_until(ws, "x")
        open_gate("w")
        assert await all_of(ws, job_id)
        writer.close()
