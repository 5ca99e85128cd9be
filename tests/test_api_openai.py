"""OpenAI's images API: what a request becomes, and what comes back."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ledgers import on_a_loop
from PIL import Image
from servers import Served, serving

import nodes
from executor.api.openai_fields import GenerationFields
from executor.api.openai_images import fitted
from executor.api.picture_jobs import filtered

assert nodes  # registers the classes

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch

QUICK = {"steps": 2, "size": "64x64", "prompt": "a red circle on a blue background"}


async def workflow_of_the_last(server: Served) -> dict[str, Any]:
    (job,) = await server.ledger.history(limit=1)
    return json.loads(job.body.prompt)


def node(workflow: dict[str, Any], class_type: str) -> dict[str, Any]:
    return next(n["inputs"] for n in workflow.values() if n["class_type"] == class_type)


def picture(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content))


def png(mode: str = "RGB", size: tuple[int, int] = (64, 64), hole: bool = False) -> bytes:
    image = Image.new(mode, size, "red")
    if hole:
        image.putalpha(Image.new("L", size, 255))
        image.paste((0, 0, 0, 0), (16, 16, 48, 48))
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def form(**fields: Any) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bytes):
                data.add_field(name.replace("_s", "[]"), one, filename="a.png")
            else:
                data.add_field(name, str(one))
    return data


@on_a_loop
async def test_a_request_becomes_the_workflow_that_it_means(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        said = {
            **QUICK,
            "model": "weft-tiny",
            "n": 2,
            "size": "72x64",
            "seed": 7,
            "negative_prompt": "green",
            "guidance_scale": 3,
            "sampler": "euler",
            "scheduler": "normal",
        }
        answer = await server.post("/v1/images/generations", said)
        workflow = await workflow_of_the_last(server)
    assert [datum["seed"] for datum in answer["data"]] == [7, 8]
    assert {n["inputs"]["seed"] for n in workflow.values() if "seed" in n["inputs"]} == {7, 8}
    latent, sampler = node(workflow, "EmptyLatent"), node(workflow, "KSampler")
    assert (latent["width"], latent["height"], latent["batch_size"]) == (72, 64, 1)
    assert (sampler["steps"], sampler["cfg"]) == (2, 3)
    assert (sampler["sampler_name"], sampler["scheduler"]) == ("euler", "normal")
    texts = {n["inputs"]["text"] for n in workflow.values() if "text" in n["inputs"]}
    assert texts == {QUICK["prompt"], "green"}
    assert answer["size"] == "72x64"
    assert answer["usage"]["input_tokens"] == 8  # "a red circle on a blue background" + "green"


@on_a_loop
async def test_pictures_come_as_addresses_or_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        answer = await server.post("/v1/images/generations", {**QUICK, "seed": 1})
        (datum,) = answer["data"]
        assert datum["b64_json"] is None
        async with server.client.session.get(datum["url"]) as response:
            assert response.status == 200
            assert picture(await response.read()).size == (64, 64)
        said = {**QUICK, "seed": 1, "response_format": "b64_json", "output_format": "webp"}
        whole = await server.post("/v1/images/generations", said)
        (datum,) = whole["data"]
        assert datum["url"] is None
        assert picture(base64.b64decode(datum["b64_json"])).format == "WEBP"
        as_jpeg = await server.post(
            "/v1/images/generations", {**QUICK, "seed": 1, "output_format": "jpeg"}
        )
        async with server.client.session.get(as_jpeg["data"][0]["url"]) as response:
            assert picture(await response.read()).format == "JPEG"


@on_a_loop
async def test_the_same_seed_gives_the_same_picture_alone_as_among_others(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        said = {**QUICK, "response_format": "b64_json"}
        both = await server.post("/v1/images/generations", {**said, "n": 2, "seed": 4})
        alone = await server.post("/v1/images/generations", {**said, "seed": 5})
    second, single = (
        picture(base64.b64decode(answer["data"][-1]["b64_json"])).convert("RGB")
        for answer in (both, alone)
    )
    # A batch rounds otherwise than a single row.
    assert max(abs(a - b) for a, b in zip(second.tobytes(), single.tobytes(), strict=True)) <= 1


@on_a_loop
async def test_an_edit_repaints_what_the_mask_leaves_transparent(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        data = form(image=png(), mask=png("RGBA", hole=True), seed=1, **QUICK)
        answer = await server.post("/v1/images/edits", data=data)
        workflow = await workflow_of_the_last(server)
        async with server.client.session.get(answer["data"][0]["url"]) as response:
            edited = picture(await response.read()).convert("RGB")
    assert node(workflow, "SetLatentNoiseMask")
    assert edited.getpixel((4, 4)) == (255, 0, 0), "what the mask covers stays"
    assert edited.getpixel((32, 32)) != (255, 0, 0)


@on_a_loop
async def test_an_edit_without_a_mask_and_a_variation_start_from_the_picture(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        data = form(image_s=[png(), png(size=(32, 32))], strength=0.5, seed=1, **QUICK)
        answer = await server.post("/v1/images/edits", data=data)
        assert len(answer["data"]) == 2, "each picture is edited"
        workflow = await workflow_of_the_last(server)
        assert node(workflow, "KSampler")["denoise"] == 0.5
        data = form(image=png(size=(128, 64)), n=1, steps=2)
        answer = await server.post("/v1/images/variations", data=data)
        assert answer["size"] == "{}x{}".format(*fitted((128, 64), 128))


@on_a_loop
async def test_a_streamed_answer_has_pictures_in_the_making_and_the_finished_one(
    tmp_path: Path,
) -> None:
    said = {**QUICK, "steps": 60, "stream": True, "partial_images": 2}
    async with (
        serving(tmp_path) as server,
        server.client.post("/v1/images/generations", json=said) as response,
    ):
        assert response.content_type == "text/event-stream"
        text = await response.text()
    events = [dict(line.split(": ", 1) for line in e.split("\n")) for e in text.split("\n\n") if e]
    *partials, last = events
    assert last["event"] == "image_generation.completed"
    assert {event["event"] for event in partials} <= {"image_generation.partial_image"}
    assert 1 <= len(partials) <= 2
    for at, event in enumerate(partials):
        data = json.loads(event["data"])
        assert data["partial_image_index"] == at
        assert picture(base64.b64decode(data["b64_json"])).size == (64, 64)
    assert json.loads(last["data"])["usage"]["total_tokens"] > 0


@on_a_loop
async def test_all_wrong_fields_are_named_at_once_in_openais_shape(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        said = {"prompt": "x" * 10**6, "n": 1000, "size": "63x64", "sampler": "eulr"}
        answer = await server.post("/v1/images/generations", said, 400)
        error = answer["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] == "n"
        for name in ("prompt", "n", "size", "sampler"):
            assert f"{name}: " in error["message"]
        assert "euler" in error["message"], "the nearest name is said"
        answer = await server.post("/v1/images/generations", {}, 400)
        assert answer["error"]["message"] == "prompt: it is required"
        answer = await server.post("/v1/images/generations", {**QUICK, "model": "sdxxl"}, 404)
        assert answer["error"]["code"] == "model_not_found"
        answer = await server.post("/v1/images/edits", data=form(prompt="a"), status=400)
        assert answer["error"]["param"] == "image"
        data = form(prompt="a", image=b"no picture")
        assert "not a picture" in str(await server.post("/v1/images/edits", data=data, status=400))
        data = form(prompt="a", image=png(), mask=png("RGBA", (32, 32), hole=True))
        answer = await server.post("/v1/images/edits", data=data, status=400)
        assert answer["error"]["param"] == "mask"
        said = {**QUICK, "background": "transparent"}
        answer = await server.post("/v1/images/generations", said, 400)
        assert answer["error"]["param"] == "background"


def test_fields_that_say_nothing_are_as_if_they_were_not_there() -> None:
    names = ("n", "seed", "steps", "guidance_scale", "strength", "output_compression")
    plain = GenerationFields.read({"prompt": "a"})
    for nothing in (None, ""):
        assert GenerationFields.read({"prompt": "a", **dict.fromkeys(names, nothing)}) == plain


@on_a_loop
async def test_quality_is_a_share_of_the_usual_steps_unless_steps_are_said(tmp_path: Path) -> None:
    usual = {"checkpoint": "weft-tiny.safetensors", "defaults": {"steps": 4}}
    async with serving(tmp_path, models={"small": usual}) as server:
        for said, steps in (
            ({}, 4),
            ({"quality": "low"}, 2),
            ({"quality": "medium"}, 4),
            ({"quality": "hd"}, 8),
            ({"quality": "high", "steps": 3}, 3),
        ):
            asked = {"prompt": "a red circle", "size": "64x64", **said}
            answer = await server.post("/v1/images/generations", asked)
            assert node(await workflow_of_the_last(server), "KSampler")["steps"] == steps
            assert answer["quality"] == said.get("quality", "auto")


@on_a_loop
async def test_compression_makes_smaller_pictures_and_what_does_not_apply_is_let_through(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        said = {**QUICK, "seed": 1, "response_format": "b64_json", "output_format": "jpeg"}
        said |= {"moderation": "low", "style": "vivid", "user": "somebody", "background": "opaque"}
        sizes: list[int] = []
        for compression in (95, 5):
            asked = {**said, "output_compression": compression}
            answer = await server.post("/v1/images/generations", asked)
            sizes.append(len(answer["data"][0]["b64_json"]))
        assert sizes[0] > 2 * sizes[1]
        noted = await server.post("/v1/images/generations", {**said, "provider": "elsewhere"})
        assert "provider is ignored" in noted["notes"][0]


@on_a_loop
async def test_models_are_listed_and_described(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        listed = await server.get("/v1/models")
        assert [model["id"] for model in listed["data"]] == ["weft-tiny"]
        assert await server.get("/v1/models/weft-tiny") == listed["data"][0]
        answer = await server.get("/v1/models/none", 404)
        assert answer["error"]["code"] == "model_not_found"


def test_an_output_filter_stands_before_whatever_saves() -> None:
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }
    result = filtered(prompt, "ImageInvert")
    assert result["2"]["inputs"]["images"] == ["2:filter", 0]
    assert result["2:filter"] == {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    assert filtered(prompt, None) == prompt
