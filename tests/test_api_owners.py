"""Each token's jobs, events and pictures are its own; an administrator's token sees all."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from callers import caller
from ledgers import on_a_loop
from PIL import Image
from servers import Served, heard, heard_until, open_gate, serving, sink, waiting

import nodes
from executor.ledger import State

assert nodes.LoadImage, "importing them registers them"

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


@dataclass
class House:
    """A server with two who use it, and one who runs it."""

    server: Served
    ann: dict[str, str]
    bob: dict[str, str]
    admin: dict[str, str]

    async def submit(self, headers: dict[str, str], prompt: Any, **more: Any) -> str:
        answer = await self.server.post("/prompt", {"prompt": prompt, **more}, headers=headers)
        return answer["prompt_id"]

    async def made(self, headers: dict[str, str], name: str, **more: Any) -> str:
        """A job that is over."""
        job_id = await self.submit(headers, sink(name=name), **more)
        await self.server.until(lambda: self.server.get(f"/history/{job_id}", headers=self.admin))
        return job_id


@asynccontextmanager
async def house(base: Path, **settings: Any) -> AsyncGenerator[House]:
    async with serving(base, **settings) as server:
        limits = {"is_admin": True}
        yield House(server, caller(base, "ann"), caller(base, "bob"), caller(base, "eve", **limits))


def picture(colour: str = "red") -> bytes:
    stream = BytesIO()
    Image.new("RGBA", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


async def upload(
    of: House, headers: dict[str, str], content: bytes, status: int = 200, **fields: str
) -> Any:
    form = FormData()
    form.add_field("image", content, filename=fields.pop("name", "x.png"))
    for name, value in fields.items():
        form.add_field(name, value)
    path = "/upload/mask" if "original_ref" in fields else "/upload/image"
    async with of.server.client.post(path, data=form, headers=headers) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def seen(of: House, headers: dict[str, str], **file: str) -> bytes | None:
    async with of.server.client.get("/view", params=file, headers=headers) as response:
        assert response.status in (200, 404)
        return await response.read() if response.status == 200 else None


def loading(name: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


@on_a_loop
async def test_lists_show_ones_own_jobs_and_an_administrator_all(tmp_path):
    async with house(tmp_path) as of:
        anns, bobs = await of.made(of.ann, "a"), await of.made(of.bob, "b")
        running = await of.submit(of.bob, waiting("gate"))
        await of.server.running(running)
        get = of.server.get
        for headers, ended, now in (
            (of.ann, {anns}, set()),
            (of.bob, {bobs}, {running}),
            (of.admin, {anns, bobs}, {running}),
        ):
            assert set(await get("/history", headers=headers)) == ended
            jobs = await get("/jobs", headers=headers)
            assert {job["id"] for job in jobs["jobs"]} == ended | now
            assert jobs["pagination"]["total"] == len(ended | now)
            queue = await get("/queue", headers=headers)
            assert {item[1] for item in queue["queue_running"]} == now
            count = await get("/prompt", headers=headers)
            assert count["exec_info"]["queue_remaining"] == len(now)
        assert await get(f"/history/{bobs}", headers=of.ann) == {}
        await get(f"/jobs/{bobs}", 404, headers=of.ann)
        await get(f"/jobs/{bobs}/events", 404, headers=of.ann)
        await get(f"/jobs/{bobs}", headers=of.bob)
        await get(f"/jobs/{bobs}", headers=of.admin)


@on_a_loop
async def test_nobody_ends_or_deletes_anothers_jobs(tmp_path):
    async with house(tmp_path, capacity=1) as of:
        post, state = of.server.post, of.server.state
        over = await of.made(of.bob, "b")
        running = await of.submit(of.bob, waiting("gate"))
        await of.server.running(running)
        queued = await of.submit(of.bob, sink())
        for job_id in (running, queued):
            answer = await post(f"/jobs/{job_id}/cancel", headers=of.ann)
            assert answer == {"cancelled": False}
            await post("/interrupt", {"prompt_id": job_id}, headers=of.ann)
        for body in ({}, {"client_id": ""}):
            await post("/interrupt", body, headers=of.ann)
        ids = {"job_ids": [running, queued]}
        assert await post("/jobs/cancel", ids, headers=of.ann) == {"cancelled": False}
        for change in ({"clear": True}, {"delete": [running, queued, over]}):
            await post("/queue", change, headers=of.ann)
            await post("/history", change, headers=of.ann)
        assert await state(running) is State.RUNNING
        assert await state(queued) is State.QUEUED
        assert await state(over) is State.SUCCEEDED
        await post("/queue", {"clear": True}, headers=of.bob)
        assert await state(queued) is State.CANCELLED
        answer = await post(f"/jobs/{running}/cancel", headers=of.admin)
        assert answer == {"cancelled": True}
        await post("/history", {"clear": True}, headers=of.bob)
        assert await of.server.ledger.job(over) is None


@on_a_loop
async def test_an_interrupt_without_a_name_means_ones_own_job(tmp_path):
    async with house(tmp_path, workers=2, capacity=1) as of:
        anns = await of.submit(of.ann, waiting("a"), client_id="x")
        bobs = await of.submit(of.bob, waiting("b"), client_id="y")
        for job_id in (anns, bobs):
            await of.server.running(job_id)
        await of.server.post("/interrupt", headers=of.ann)
        assert await of.server.state(anns) is State.CANCELLED
        assert await of.server.state(bobs) is State.RUNNING


@on_a_loop
async def test_the_client_id_of_anothers_jobs_tells_nothing(tmp_path):
    async with house(tmp_path) as of:
        connect = of.server.client.ws_connect
        async with (
            connect("/ws?clientId=me", headers=of.ann) as anns,
            connect("/ws?clientId=me&since=0", headers=of.bob) as bobs,
            connect("/ws?clientId=me", headers=of.admin) as admins,
        ):
            await heard_until(bobs, "replayed")
            job_id = await of.made(of.ann, "a", client_id="me")
            for ws in (anns, admins):
                told = await heard_until(ws, "executing", node=None)
                assert any(message["type"] == "executed" for message in told)
            await of.made(of.bob, "b", client_id="me")
            told = await heard_until(bobs, "executing", node=None)
            assert job_id not in json.dumps(told)
            await bobs.send_str('{"type":"replay","data":{"since":0}}')
            told = await heard_until(bobs, "replayed")
            assert len(told) > 3
            assert job_id not in json.dumps(told)
        async with connect("/ws?clientId=me&since=0", headers=of.bob) as again:
            assert job_id not in json.dumps(await heard_until(again, "replayed"))


@on_a_loop
async def test_a_job_that_is_stopped_or_given_up_is_told_to_nobody_else(tmp_path):
    async with house(tmp_path, capacity=1) as of:
        connect = of.server.client.ws_connect
        async with (
            connect("/ws?clientId=me&since=0", headers=of.bob) as bobs,
            connect("/ws?clientId=other", headers=of.admin) as admins,
        ):
            running = await of.submit(of.ann, waiting("gate"), client_id="me")
            await of.server.running(running)
            queued = await of.submit(of.ann, sink(), client_id="me")
            await of.server.post("/queue", {"clear": True}, headers=of.ann)
            await of.server.post("/interrupt", {"prompt_id": running}, headers=of.ann)
            open_gate("gate")
            await heard_until(admins, "execution_interrupted", prompt_id=running)
            bobs_own = await of.made(of.bob, "b", client_id="me")
            told = await heard_until(bobs, "executing", node=None)
            said = json.dumps(told)
            assert bobs_own in said
            assert running not in said
            assert queued not in said


@on_a_loop
async def test_a_socket_that_comes_while_anothers_job_runs_is_not_told_of_it(tmp_path):
    async with house(tmp_path, workers=2, capacity=1) as of:
        running = await of.submit(of.ann, waiting("gate"), client_id="me")
        await of.server.running(running)
        connect = of.server.client.ws_connect
        async with connect("/ws?clientId=me", headers=of.bob) as ws:
            status = await heard(ws)
            assert status["data"]["status"]["exec_info"]["queue_remaining"] == 0
            await of.made(of.bob, "b", client_id="me")
            told = await heard_until(ws, "executing", node=None)
            assert running not in json.dumps(told)
            *_, last = [message for message in told if message["type"] == "status"]
            assert last["data"]["status"]["exec_info"]["queue_remaining"] == 0


@on_a_loop
async def test_nobody_reads_anothers_results(tmp_path):
    async with house(tmp_path) as of:
        job_id = await of.made(of.ann, "secret")
        entry = (await of.server.get(f"/history/{job_id}", headers=of.ann))[job_id]
        (file,) = [f for kinds in entry["outputs"].values() for fs in kinds.values() for f in fs]
        assert await seen(of, of.ann, **file)
        assert await seen(of, of.admin, **file)
        assert await seen(of, of.bob, **file) is None
        place = f" [{file['type']}]"
        assert await seen(of, of.bob, filename=file["filename"] + place, type="input") is None
        listed = f"/internal/files/{file['type']}"
        assert await of.server.get(listed, headers=of.ann) == [file["filename"]]
        assert await of.server.get(listed, headers=of.bob) == []
        # Who asked for the same has it too: it was his to make.
        await of.made(of.bob, "secret")
        assert await seen(of, of.bob, **file)


@on_a_loop
async def test_what_belongs_to_no_job_that_is_kept_is_the_administrators(tmp_path):
    async with house(tmp_path) as of:
        (tmp_path / "output").mkdir()
        (tmp_path / "output" / "old.png").write_bytes(picture())
        for headers, is_there in ((of.ann, False), (of.admin, True)):
            assert bool(await seen(of, headers, filename="old.png")) == is_there


@on_a_loop
async def test_nobody_reads_anothers_uploads_and_all_read_what_was_put_there_by_hand(tmp_path):
    async with house(tmp_path) as of:
        (tmp_path / "input").mkdir()
        (tmp_path / "input" / "shared.png").write_bytes(picture())
        await upload(of, of.ann, picture("blue"), subfolder="mine")
        mine = {"filename": "x.png", "subfolder": "mine", "type": "input"}
        assert await seen(of, of.ann, **mine) == picture("blue")
        assert await seen(of, of.admin, **mine)
        for way in (
            mine,
            {"filename": "mine/x.png", "type": "input"},
            {"filename": "x.png", "subfolder": "./mine/", "type": "input"},
            {"filename": "x.png [input]", "subfolder": "mine", "type": "output"},
        ):
            assert await seen(of, of.bob, **way) is None
        for headers in (of.ann, of.bob):
            assert await seen(of, headers, filename="shared.png", type="input")
            assert await seen(of, headers, filename="red_circle.png", type="input")
        assert await of.server.get("/internal/files/input", headers=of.bob) == ["shared.png"]


@on_a_loop
async def test_nobody_has_a_job_read_anothers_pictures(tmp_path):
    async with house(tmp_path) as of:
        await upload(of, of.ann, picture(), name="mine.png")
        job_id = await of.made(of.ann, "secret")
        entry = (await of.server.get(f"/history/{job_id}", headers=of.ann))[job_id]
        (file,) = [f for kinds in entry["outputs"].values() for fs in kinds.values() for f in fs]
        made = f"{file['filename']} [{file['type']}]"
        for name in ("mine.png", "./mine.png", made):
            body = {"prompt": loading(name)}
            refused = await of.server.post("/prompt", body, 400, headers=of.bob)
            (error,) = refused["node_errors"]["1"]["errors"]
            assert "there is no file" in error["details"]
            assert refused["node_errors"]["1"]["dependent_outputs"] == ["2"]
        for headers in (of.ann, of.admin):
            await of.server.post("/prompt", {"prompt": loading("mine.png")}, headers=headers)
        await of.server.post("/prompt", {"prompt": loading("red_circle.png")}, headers=of.bob)


@on_a_loop
async def test_nobody_replaces_anothers_picture_or_masks_it(tmp_path):
    async with house(tmp_path) as of:
        await upload(of, of.ann, picture("blue"))
        kept = await upload(of, of.bob, picture("green"), overwrite="true")
        assert kept["name"] == "x (1).png"
        assert await seen(of, of.ann, filename="x.png", type="input") == picture("blue")
        original = json.dumps({"filename": "x.png", "type": "input"})
        await upload(of, of.bob, picture(), 404, name="m.png", original_ref=original)
        await upload(of, of.ann, picture(), name="m.png", original_ref=original)
        await upload(of, of.ann, picture("white"), overwrite="true")
        assert await seen(of, of.ann, filename="x.png", type="input") == picture("white")
        await upload(of, of.bob, picture(), 403, type="output")
        await upload(of, of.admin, picture("black"), overwrite="true")
        assert await seen(of, of.ann, filename="x.png", type="input") == picture("black")


@on_a_loop
async def test_nobody_is_offered_the_names_of_anothers_uploads(tmp_path):
    async with house(tmp_path) as of:
        before = await of.server.get("/object_info", headers=of.ann)
        await upload(of, of.ann, picture(), name="anns.png")
        for headers, is_offered in ((of.ann, True), (of.bob, False), (of.admin, True)):
            everything = await of.server.get("/object_info", headers=headers)
            one = await of.server.get("/object_info/LoadImage", headers=headers)
            assert one == {"LoadImage": everything["LoadImage"]}
            (names, *_) = one["LoadImage"]["input"]["required"]["image"]
            assert "red_circle.png" in names
            assert ("anns.png" in names) == is_offered
            assert ("anns.png" in json.dumps(everything)) == is_offered
            assert everything.keys() == before.keys()
            assert await of.server.get("/object_info/Nothing", headers=headers) == {}


@on_a_loop
async def test_who_sends_the_same_picture_has_it_too(tmp_path):
    async with house(tmp_path) as of:
        for headers in (of.ann, of.bob):
            assert (await upload(of, headers, picture()))["name"] == "x.png"
            assert await seen(of, headers, filename="x.png", type="input")


@on_a_loop
async def test_what_the_editor_keeps_is_each_ones_own(tmp_path):
    async with house(tmp_path) as of:
        put = of.server.client.post
        async with put("/userdata/a.json", data=b"anns", headers=of.ann) as response:
            assert response.status == 200
        await of.server.get("/userdata/a.json", 404, headers=of.bob)
        await of.server.get("/userdata?dir=..%2F..", 403, headers=of.bob)
        await of.server.post("/settings/x", 5, headers=of.ann)
        assert await of.server.get("/settings/x", headers=of.ann) == 5
        assert await of.server.get("/settings/x", headers=of.bob) is None
        assert await of.server.get("/settings/x", headers=of.admin) is None


@on_a_loop
async def test_the_log_is_for_administrators(tmp_path):
    async with house(tmp_path) as of:
        refused = await of.server.get("/internal/logs/raw", 403, headers=of.ann)
        assert "--admin" in refused["error"]["message"]
        await of.server.get("/internal/logs/raw", headers=of.admin)


@on_a_loop
async def test_what_was_there_before_the_first_token_is_the_administrators(tmp_path):
    async with serving(tmp_path) as server:
        job_id = await server.submit(sink())
        await server.over(job_id)
        ann, admin = caller(tmp_path, "ann"), caller(tmp_path, "eve", is_admin=True)
        assert await server.get("/history", headers=ann) == {}
        assert list(await server.get("/history", headers=admin)) == [job_id]


@on_a_loop
async def test_the_same_key_of_two_owners_is_two_jobs(tmp_path):
    async with house(tmp_path) as of:
        ids = set[str]()
        for headers in (of.ann, of.bob, of.ann):
            key = {"Idempotency-Key": "k"} | headers
            ids.add((await of.server.post("/prompt", {"prompt": sink()}, headers=key))["prompt_id"])
        assert len(ids) == 2
