"""The RunPod-style job API: what a job becomes, how it stands, and what comes of it."""

import asyncio
import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from ledgers import on_a_loop
from PIL import Image
from servers import Served, open_gate, serving, waiting

import nodes
from executor.api.runpod_fields import with_scheduler

assert nodes  # registers the classes

pytestmark = [
    pytest.mark.timeout(60),  # the first test of a process loads torch
    # diffusers asks numpy for what its newer versions spell otherwise
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

QUICK = {
    "prompt": "a red circle on a blue background",
    "num_inference_steps": 3,
    "width": 128,
    "height": 128,
}


def data_url(mode: str = "RGB", hole: bool = False) -> str:
    image = Image.new(mode, (64, 64), "white" if hole else "red")
    if hole:
        image.paste("black", (16, 16, 48, 48))
    stream = BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


async def workflow_of(server: Served, job_id: str) -> dict[str, Any]:
    job = await server.ledger.job(job_id)
    assert job
    return json.loads(job.body.prompt)


def node(workflow: dict[str, Any], class_type: str) -> dict[str, Any]:
    return next(n["inputs"] for n in workflow.values() if n["class_type"] == class_type)


async def fetched(server: Served, url: str) -> Image.Image:
    async with server.client.session.get(url) as response:
        assert response.status == 200
        return Image.open(BytesIO(await response.read())).convert("RGB")


@on_a_loop
async def test_a_job_is_queued_polled_and_completed(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        said = {**QUICK, "num_outputs": 2, "seed": 5, "negative_prompt": "green"}
        queued = await server.post("/v2/weft-tiny/run", {"input": said})
        assert queued["status"] == "IN_QUEUE"
        job_id = queued["id"]

        async def completed() -> Any:
            found = await server.get(f"/v2/weft-tiny/status/{job_id}")
            return found if found["status"] == "COMPLETED" else None

        found = await server.until(completed)
        assert [picture["seed"] for picture in found["output"]] == [5, 6]
        assert found["input"]["prompt"] == QUICK["prompt"]
        assert {"delayTime", "executionTime", "gpu"} <= found.keys()
        assert (await fetched(server, found["output"][0]["image"])).size == (128, 128)
        workflow = await workflow_of(server, job_id)
    sampler = node(workflow, "DiffusersSampler")
    assert (sampler["steps"], sampler["cfg"], sampler["scheduler"]) == (3, 7.5, "K-LMS")
    texts = {n["inputs"]["text"] for n in workflow.values() if "text" in n["inputs"]}
    assert texts == {QUICK["prompt"], "green"}


@on_a_loop
async def test_runsync_answers_with_the_result(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        for prefix in ("", "/v1/weft-tiny", "/v2/weft-tiny"):
            found = await server.post(f"{prefix}/runsync", {"input": {**QUICK, "seed": 1}})
            assert found["status"] == "COMPLETED"
            assert found["id"].startswith("sync-")


@on_a_loop
async def test_runsync_that_waits_for_too_long_says_how_the_job_stands(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        said = {"input": {"workflow": waiting("gate")}}
        found = await server.post("/runsync?wait=50", said)
        assert found["status"] in ("IN_QUEUE", "IN_PROGRESS")
        open_gate("gate")
        await server.over(found["id"])
        assert (await server.get(f"/status/{found['id']}"))["status"] == "COMPLETED"


@on_a_loop
async def test_what_is_black_in_a_mask_is_repainted(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        said = {**QUICK, "init_image": data_url(), "mask": data_url(hole=True), "seed": 1}
        found = await server.post("/runsync", {"input": {**said, "scheduler": "EULER-D"}})
        edited = await fetched(server, found["output"][0]["image"])
    assert edited.getpixel((4, 4)) == (255, 0, 0), "white is kept"
    assert edited.getpixel((64, 64)) != (255, 0, 0)


@on_a_loop
async def test_prompt_strength_says_how_much_of_a_picture_is_left(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        said = {**QUICK, "init_image": data_url(), "prompt_strength": 0.25}
        found = await server.post("/runsync", {"input": said})
        workflow = await workflow_of(server, found["id"])
    assert node(workflow, "DiffusersSampler")["denoise"] == 0.25
    assert node(workflow, "ImageScale")["width"] == 128


def test_samplers_step_as_the_scheduler_that_is_asked_for() -> None:
    sampler = {"class_type": "KSampler", "inputs": {"sampler_name": "euler", "steps": 4}}
    assert with_scheduler({"1": sampler}, "DPM-S")["1"] == {
        "class_type": "DiffusersSampler",
        "inputs": {"steps": 4, "scheduler": "DPM-S"},
    }


@on_a_loop
async def test_a_workflow_of_ones_own_runs_and_its_pictures_come_whole(tmp_path: Path) -> None:
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}},
    }
    given = [{"name": "mine.png", "image": data_url().partition(",")[2]}]
    async with serving(tmp_path) as server:
        said = {"input": {"workflow": workflow, "images": given}}
        found = await server.post("/runsync", said)
    (picture,) = found["output"]["images"]
    assert (picture["type"], picture["filename"]) == ("base64", "a_00001_.png")
    made = Image.open(BytesIO(base64.b64decode(picture["data"]))).convert("RGB")
    assert made.getpixel((0, 0)) == (0, 255, 255)


@on_a_loop
async def test_a_job_is_cancelled_and_the_queue_of_an_endpoint_purged(tmp_path: Path) -> None:
    async with serving(tmp_path, capacity=1) as server:
        busy = (await server.post("/run", {"input": {"workflow": waiting("gate")}}))["id"]
        await server.running(busy)
        other = await server.submit(waiting("gate2"))  # of another face
        ids = [(await server.post("/run", {"input": QUICK}))["id"] for _ in range(3)]
        found = await server.post(f"/cancel/{ids[0]}")
        assert found == {"id": ids[0], "status": "CANCELLED"}
        assert await server.post("/v2/weft-tiny/purge-queue") == {
            "removed": 2,
            "status": "completed",
        }
        assert (await server.get(f"/status/{ids[2]}"))["status"] == "CANCELLED"
        assert (await server.state(other)).value == "queued"
        told = await server.get("/v2/weft-tiny/health")
        assert (told["jobs"]["inProgress"], told["jobs"]["inQueue"]) == (1, 1)
        assert told["workers"]["running"] == 1
        open_gate("gate")
        open_gate("gate2")


@on_a_loop
async def test_a_job_that_failed_is_tried_again_under_its_id(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        workflow = {"1": {"class_type": "ToyFail", "inputs": {}}}
        workflow["2"] = {"class_type": "ToySink", "inputs": {"value": ["1", 0], "name": "x"}}
        found = await server.post("/runsync", {"input": {"workflow": workflow}})
        assert found["status"] == "FAILED"
        assert found["error"]
        again = await server.post(f"/retry/{found['id']}")
        assert again == {"id": found["id"], "status": "IN_QUEUE"}

        async def is_over() -> bool:
            return (await server.state(found["id"])).is_over

        await server.until(is_over)
        record = await server.ledger.job_record(found["id"])
        assert record
        assert record.attempt == 2
        done = await server.post("/runsync", {"input": {**QUICK, "seed": 1}})
        await server.post(f"/retry/{done['id']}", status=400)


@on_a_loop
async def test_a_stream_gives_each_picture_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        found = await server.post("/runsync", {"input": {**QUICK, "num_outputs": 2}})
        told = await server.get(f"/stream/{found['id']}")
        assert told["status"] == "COMPLETED"
        assert [item["output"]["seed"] for item in told["stream"]] == [
            picture["seed"] for picture in found["output"]
        ]
        assert (await server.get(f"/stream/{found['id']}"))["stream"] == [], "clients wait for it"


@on_a_loop
async def test_a_policy_ends_what_takes_too_long(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        said = {"input": {"workflow": waiting("gate")}, "policy": {"executionTimeout": 100}}
        found = await server.post("/runsync", said)
        assert found["status"] == "TIMED_OUT"
        open_gate("gate")


@on_a_loop
async def test_all_wrong_fields_are_named_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        said = {"width": 100, "num_outputs": 11, "scheduler": "EULER", "guidance_scale": 0}
        answer = await server.post("/run", {"input": said, "policy": {"ttl": -1}}, 400)
        for name in ("prompt", "width", "num_outputs", "scheduler", "guidance_scale"):
            assert f"input.{name}: " in answer["error"]
        assert "policy.ttl: " in answer["error"]
        assert "input" in (await server.post("/run", {}, 400))["error"]
        said = {"input": {**QUICK, "mask": data_url()}}
        assert "init_image" in (await server.post("/run", said, 400))["error"]
        said = {"input": {**QUICK, "init_image": "data:text/plain,hello"}}
        assert "error" in await server.post("/run", said, 400)
        await server.post("/v2/nothing/run", {"input": QUICK}, 404)
        await server.get("/status/none", 404)


@on_a_loop
async def test_two_hundred_at_once_are_all_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, capacity=32) as server:
        workflow = {
            "1": {"class_type": "ToyNumber", "inputs": {"value": 0}},
            "2": {"class_type": "ToySink", "inputs": {"value": ["1", 0], "name": "x"}},
        }

        async def one(value: int) -> str:
            mine = json.loads(json.dumps(workflow))
            mine["1"]["inputs"]["value"] = value
            return (await server.post("/runsync", {"input": {"workflow": mine}}))["status"]

        assert await asyncio.gather(*map(one, range(200))) == ["COMPLETED"] * 200
