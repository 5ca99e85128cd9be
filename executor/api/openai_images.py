"""OpenAI's images API: pictures from a prompt, from a picture and a mask, or like a picture.

Each request becomes a workflow of a named model and is queued like any other; the answer comes when
the job is over. With ``stream`` the pictures come as server-sent events, those in the making first.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from math import sqrt
from time import time
from typing import Any

from aiohttp import BodyPartReader, web

from executor.api.body import object_body
from executor.api.keys import IS_ANSWERING, LEDGER, PARTIALS, SETTINGS
from executor.api.openai_fields import EditFields, GenerationFields, PictureFields, VariationFields
from executor.api.picture_jobs import (
    Made,
    Wish,
    ended,
    keep_mask,
    keep_picture,
    made,
    named_model,
    packed,
    picture_url,
    repacked,
    request_data,
    seeds_from,
    size_of,
    submit,
    why,
)
from executor.api.refusal import MAX_BODY_BYTES, Refusal, too_large
from executor.api.replies import json_reply, json_text
from executor.ledger import FullJob, State
from executor.public_models import PublicModel, Task

FACE = "openai"
MOST_PICTURES = 16  # of one edit
MOST_FIELDS = 64
MOST_TEXT_BYTES = 256 * 2**10  # of a field that is no picture
USUAL_QUALITY = 90  # of JPEG and WebP, where nobody says

_VARIATION_STRENGTH = 0.6


@dataclass(slots=True)
class Form:
    """A form's texts, and its pictures by their fields' names."""

    texts: dict[str, str] = field(default_factory=dict[str, str])
    images: list[bytes] = field(default_factory=list[bytes])
    mask: bytes | None = None


async def generations(request: web.Request) -> web.StreamResponse:
    """Make pictures from a prompt."""
    fields = GenerationFields.read(await object_body(request))
    model = await named_model(request.app, fields.model)
    width, height = fields.pixels() or (model.resolution, model.resolution)
    values = _values(model, Task.TEXT_TO_IMAGE, fields, fields.prompt, (width, height))
    values.pop("strength")  # there is no picture to keep something of
    wish = _wish(model, Task.TEXT_TO_IMAGE, fields, values)
    return await _answer(request, wish, fields, fields.prompt, (width, height), "image_generation")


async def edits(request: web.Request) -> web.StreamResponse:
    """Repaint what a mask leaves transparent; without a mask, the picture as a whole."""
    form = await _form(request)
    fields = EditFields.read(form.texts)
    if not form.images:
        raise Refusal(400, "missing_field", "image: it is required", param="image")
    model = await named_model(request.app, fields.model)
    size = await size_of(request.app, form.images[0], "image")
    mask = None
    if form.mask is not None:
        if await size_of(request.app, form.mask, "mask") != size:
            words = "mask: it must have the size of the image"
            raise Refusal(400, "invalid_value", words, param="mask")
        mask = await keep_mask(request, form.mask, "mask", repainted="transparent")
    task = Task.IMAGE_TO_IMAGE if mask is None else Task.INPAINT
    pixels = fields.pixels() or fitted(size, model.resolution)
    values = _values(model, task, fields, fields.prompt, pixels)
    values["mask"] = mask
    sources = [{"image": await keep_picture(request, image, "image")} for image in form.images]
    wish = _wish(model, task, fields, values, sources)
    return await _answer(request, wish, fields, fields.prompt, pixels, "image_edit")


async def variations(request: web.Request) -> web.StreamResponse:
    """Make pictures that are like a given one."""
    form = await _form(request)
    fields = VariationFields.read(form.texts)
    if len(form.images) != 1:
        words = f"image: there must be one, got {len(form.images)}"
        raise Refusal(400, "missing_field", words, param="image")
    model = await named_model(request.app, fields.model)
    size = await size_of(request.app, form.images[0], "image")
    pixels = fields.pixels() or fitted(size, model.resolution)
    values = _values(model, Task.IMAGE_TO_IMAGE, fields, fields.prompt, pixels)
    values["strength"] = fields.strength or _VARIATION_STRENGTH
    source = {"image": await keep_picture(request, form.images[0], "image")}
    wish = _wish(model, Task.IMAGE_TO_IMAGE, fields, values, [source])
    return await _answer(request, wish, fields, fields.prompt, pixels, "image_generation")


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """A size of this shape with as many pixels as a square of ``side``, in multiples of 8."""
    scale = side / sqrt(size[0] * size[1])
    return max(64, round(size[0] * scale / 8) * 8), max(64, round(size[1] * scale / 8) * 8)


def _values(
    model: PublicModel, task: Task, fields: PictureFields, prompt: str, pixels: tuple[int, int]
) -> dict[str, Any]:
    """The parameters that a request sets. Raises Refusal for a task that the model has not."""
    template = model.templates.get(task)
    if template is None:
        words = f"model: {model.name} cannot do {task}; it can do {', '.join(model.templates)}"
        raise Refusal(400, "invalid_value", words, param="model")
    usual = {**template.defaults(), **model.defaults}
    width, height = pixels
    values = fields.parameters(usual.get("steps", 20))
    return {**values, "prompt": prompt, "width": width, "height": height}


def _wish(
    model: PublicModel,
    task: Task,
    fields: PictureFields,
    values: Mapping[str, Any],
    sources: Sequence[Mapping[str, Any]] = ({},),
) -> Wish:
    count = fields.n or 1
    said = fields.model_dump(exclude_none=True)
    extra_data = request_data(FACE, {"model": model.name, **said})
    if fields.stream and fields.partial_images:
        extra_data["preview_method"] = "auto"
    return Wish(model, task, values, seeds_from(fields.seed, count), sources, extra_data)


async def _answer(
    request: web.Request,
    wish: Wish,
    fields: PictureFields,
    prompt: str,
    pixels: tuple[int, int],
    what: str,
) -> web.StreamResponse:
    """Queue the job and answer with its pictures."""
    app = request.app
    workflow = wish.workflow(app[SETTINGS].output_filter)
    usage = await asyncio.to_thread(_usage, wish, prompt)
    width, height = pixels
    about = {
        "size": f"{width}x{height}",
        "quality": fields.quality or "auto",
        "background": "opaque",
        "output_format": fields.format,
    }
    if fields.stream:
        return await _stream(request, wish, workflow, fields, {**about, "usage": usage}, what)
    accepted = await submit(request, workflow, extra_data=wish.extra_data)
    job = await _finished(app, accepted.id)
    pictures = made(app, job)
    began, over = job.record.created_ms, job.record.ended_ms or job.record.created_ms
    answer: dict[str, Any] = {
        "created": over // 1000,
        "data": [await _datum(request, picture, fields) for picture in pictures],
        **about,
        "usage": {**usage, "latency_ms": over - began},
    }
    if fields.provider is not None:
        answer["notes"] = ["provider is ignored: this server makes the pictures itself"]
    return json_reply(answer)


async def _finished(app: web.Application, job_id: str) -> FullJob:
    """A job that has succeeded, waited for. Raises Refusal for one that has not."""
    record = await ended(app, job_id)
    job = await app[LEDGER].job(job_id)
    if job is None or record.state is not State.SUCCEEDED:
        raise unfinished(record.state, record.error)
    return job


def unfinished(state: State, error: str | None) -> Refusal:
    """Why a job has no pictures."""
    match state:
        case State.CANCELLED:
            return Refusal(409, "cancelled", "the job was cancelled")
        case State.TIMED_OUT:
            return Refusal(504, "timed_out", f"the job took too long: {why(error)}")
        case State.FAILED:
            return Refusal(500, "generation_failed", f"the job failed: {why(error)}")
        case _:
            words = "the server is about to end; the job is kept and goes on when it is back"
            return Refusal(503, "stopping", words, headers={"Retry-After": "10"})


async def _datum(request: web.Request, picture: Made, fields: PictureFields) -> dict[str, Any]:
    """One picture of the answer."""
    datum: dict[str, Any] = {"url": None, "b64_json": None, "seed": picture.seed}
    if fields.wants_data:
        content = await _content(request.app, picture, fields)
        return {**datum, "b64_json": base64.b64encode(content).decode()}
    kept = await asyncio.to_thread(_in_format, request.app, picture, fields)
    return {**datum, "url": picture_url(request, kept)}


async def _content(app: web.Application, picture: Made, fields: PictureFields) -> bytes:
    """A picture file's bytes, in the format that was asked for."""
    if fields.format == "png":
        return await asyncio.to_thread(picture.path.read_bytes)
    most, quality = app[SETTINGS].max_picture_pixels, _quality(fields)
    return await asyncio.to_thread(packed, picture.path, most, fields.format, quality)


def _in_format(app: web.Application, picture: Made, fields: PictureFields) -> Made:
    """The file to point to, written beside the PNG if it is to be of another format."""
    if fields.format == "png":
        return picture
    most = app[SETTINGS].max_picture_pixels
    return repacked(picture, most, fields.format, _quality(fields))


def _quality(fields: PictureFields) -> int:
    return USUAL_QUALITY if fields.output_compression is None else fields.output_compression


def _usage(wish: Wish, prompt: str) -> dict[str, Any]:
    """The tokens of the prompt, as CLIP counts them, and what the pictures cost."""
    from executor.models.tokenizer import bundled

    negative = wish.values.get("negative_prompt") or ""
    tokens = sum(len(bundled().ids(text)) for text in (prompt, negative) if text)
    count, price = len(wish.seeds) * len(wish.sources), wish.model.said.price
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
        "output_tokens": 0,
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "cost": None if price is None else round(price * count, 6),
    }


async def _stream(
    request: web.Request,
    wish: Wish,
    workflow: Mapping[str, Any],
    fields: PictureFields,
    about: Mapping[str, Any],
    what: str,
) -> web.StreamResponse:
    """Answer with events: pictures in the making, then those that are finished."""
    accepted = await submit(request, workflow, extra_data=wish.extra_data)
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",  # nginx would collect before it passes on
        }
    )
    request[IS_ANSWERING] = True
    await response.prepare(request)
    with suppress(ConnectionError):
        async with aclosing(_events(request, accepted.id, fields, about, what)) as events:
            async for type, data in events:
                text = f"event: {type}\ndata: {json_text({'type': type, **data})}\n\n"
                await response.write(text.encode())
        await response.write_eof()
    return response


async def _events(
    request: web.Request,
    job_id: str,
    fields: PictureFields,
    about: Mapping[str, Any],
    what: str,
) -> AsyncGenerator[tuple[str, Mapping[str, Any]]]:
    """The events of a streamed answer."""
    app = request.app
    with app[PARTIALS].listening(job_id, fields.partial_images or 0, "0:") as partial:
        finished = asyncio.create_task(_finished(app, job_id))
        picture = asyncio.create_task(partial.pictures.get())
        told = 0
        try:
            while True:
                await asyncio.wait({picture, finished}, return_when=asyncio.FIRST_COMPLETED)
                if not picture.done():
                    break
                content = await asyncio.to_thread(_like, picture.result(), fields, about["size"])
                picture = asyncio.create_task(partial.pictures.get())
                small = {name: value for name, value in about.items() if name != "usage"}
                data = {"b64_json": base64.b64encode(content).decode(), "partial_image_index": told}
                yield f"{what}.partial_image", {**data, **small, "created_at": int(time())}
                told += 1
            job = await finished
        except Refusal as refusal:
            yield "error", {"error": {"message": refusal.message, "code": refusal.type}}
            return
        finally:  # the client may have gone
            picture.cancel()
            finished.cancel()
    over = (job.record.ended_ms or 0) // 1000
    for made_one in made(app, job):
        content = await _content(app, made_one, fields)
        data = {"b64_json": base64.b64encode(content).decode(), "seed": made_one.seed}
        yield f"{what}.completed", {**data, **about, "created_at": over}


def _like(jpeg: bytes, fields: PictureFields, size: str) -> bytes:
    """A picture in the making at the size and in the format of the finished one."""
    from io import BytesIO

    from PIL import Image

    width, height = map(int, size.split("x"))
    stream = BytesIO()
    with Image.open(BytesIO(jpeg), formats=("JPEG",)) as picture:
        picture.resize((width, height)).save(stream, fields.format.upper())
    return stream.getvalue()


async def _form(request: web.Request) -> Form:
    """A form with its pictures. Raises Refusal for what is none."""
    if not request.content_type.startswith("multipart/"):
        words = f"send a multipart/form-data form, not {request.content_type}"
        raise Refusal(415, "no_form", words)
    form, size = Form(), 0
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or len(form.texts) > MOST_FIELDS:
                raise Refusal(400, "bad_form", "the form holds other forms, or too many fields")
            name = part.name or ""
            is_picture = name in ("image", "image[]", "mask")
            content = bytearray()
            while chunk := await part.read_chunk(2**16):
                content += chunk
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise too_large(MAX_BODY_BYTES)
                if not is_picture and len(content) > MOST_TEXT_BYTES:
                    words = f"{name[:40]}: it is longer than {MOST_TEXT_BYTES} bytes"
                    raise Refusal(400, "invalid_value", words, param=name[:40])
            if name == "mask":
                form.mask = bytes(content)
            elif is_picture:
                form.images.append(bytes(content))
            else:
                form.texts[name] = content.decode()
    except (ValueError, AssertionError, LookupError, RuntimeError) as bad:
        raise Refusal(400, "bad_form", f"the form is damaged: {str(bad)[:200]}") from bad
    if len(form.images) > MOST_PICTURES:
        words = f"image: {MOST_PICTURES} are the most, got {len(form.images)}"
        raise Refusal(400, "invalid_value", words, param="image")
    return form


routes = [
    web.post("/v1/images/generations", generations),
    web.post("/v1/images/edits", edits),
    web.post("/v1/images/variations", variations),
]
