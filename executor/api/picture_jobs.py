"""What the faces for applications share: a wish for pictures becomes a job, a job's end pictures.

A wish is translated into a workflow of a named model and queued like any other. Each picture has a
branch of its own with a seed of its own, so that it can be made again alone; equal nodes of the
branches run once, and their samplers share batches.
"""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from aiohttp import web

from executor.api.keys import BELLS, FOLDERS, LEDGER, MODELS, SETTINGS
from executor.api.ownership import note_upload
from executor.api.queueing import checked, queue_job
from executor.api.refusal import Refusal
from executor.api.replies import json_text
from executor.api.signing import sign
from executor.api.submission import Submission
from executor.errors import InputError, PathError, PictureError
from executor.ledger import Accepted, FullJob, JobRecord, NewHook
from executor.node import Node
from executor.picture_file import opened
from executor.public_models import PublicModel, Task
from executor.saving import save_as, save_beside
from executor.templates import side_by_side

Format: TypeAlias = Literal["png", "jpeg", "webp"]

MOST_SEED = 2**63 - 1  # what JSON readers of other languages take as a whole number
INPUTS = "api"
"""Below the input folder: the pictures that applications send."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Pictures that an application wants."""

    model: PublicModel
    task: Task
    values: Mapping[str, Any]  # parameters of the template
    seeds: Sequence[int]  # of each picture
    sources: Sequence[Mapping[str, Any]] = ({},)  # what differs between several given pictures
    extra_data: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def workflow(self, output_filter: str | None = None) -> dict[str, Any]:
        """All of it as one workflow. Raises InputError for what the model cannot do."""
        own = {name: v for name, v in self.values.items() if v is not None}
        return filtered(
            side_by_side(
                self.model.workflow(self.task, {**own, **source, "seed": seed})
                for source in self.sources
                for seed in self.seeds
            ),
            output_filter,
        )


@dataclass(frozen=True, slots=True)
class Made:
    """A picture that a job left."""

    path: Path
    filename: str
    subfolder: str
    type: str
    seed: int


def seeds_from(first: int | None, count: int) -> list[int]:
    """The seeds of so many pictures: one after the other, or all random."""
    if first is None:
        return [secrets.randbelow(MOST_SEED) for _ in range(count)]
    return [first + at for at in range(count)]


def filtered(prompt: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The workflow with a node of a class in front of everything that saves pictures."""
    if name is None:
        return prompt
    cls = Node.registry.get(name)
    inputs = [] if cls is None else [i.name for i in cls.inputs().values() if i.wire == "IMAGE"]
    if len(inputs) != 1:
        raise InputError(
            f"output_filter: {name} is no node class with one input of pictures; check the settings"
        )
    result = dict(prompt)
    for node_id, node in prompt.items():
        if "filename_prefix" in node["inputs"] and "images" in node["inputs"]:
            between = f"{node_id}:filter"
            result[between] = {"class_type": name, "inputs": {inputs[0]: node["inputs"]["images"]}}
            result[node_id] = {**node, "inputs": {**node["inputs"], "images": [between, 0]}}
    return result


async def named_model(app: web.Application, name: str | None) -> PublicModel:
    """The model of a name, or the usual one. Raises Refusal."""
    try:
        return await asyncio.to_thread(app[MODELS].named, name)
    except InputError as error:
        raise Refusal(404, "model_not_found", f"model: {error}", param="model") from error


async def submit(
    request: web.Request,
    prompt: Mapping[str, Any],
    *,
    extra_data: Mapping[str, Any],
    hook: NewHook | None = None,
    client_id: str = "",
    job_id: str | None = None,
    ttl_ms: int | None = None,
    timeout_ms: int | None = None,
    number: float | None = None,
    workflow_id: str | None = None,
) -> Accepted:
    """Queue a workflow as its caller's; it is on the disk then. Raises as ``queue_job``."""
    asked = Submission(
        prompt=dict(prompt),
        extra_data=extra_data,
        targets=None,
        number=number,
        is_front=False,
        client_id=client_id,
        prompt_id=job_id,
        idempotency_key=request.headers.get("Idempotency-Key"),
        ttl_ms=ttl_ms,
        timeout_ms=timeout_ms,
        workflow_id=workflow_id,
    )
    return await queue_job(request, await checked(request.app, asked), hook)


async def ended(app: web.Application, job_id: str, within_s: float | None = None) -> JobRecord:
    """A job, once it is over, or as it is when so much time has passed or the server goes.

    Raises Refusal for a job that is deleted meanwhile.
    """
    with app[BELLS].listening(job_id) as bell:
        try:
            async with asyncio.timeout(within_s):
                while True:
                    record = await _record(app, job_id)
                    if record.state.is_over or app[BELLS].is_closing:
                        return record
                    await bell.wait()
                    bell.clear()
        except TimeoutError:
            return await _record(app, job_id)


async def _record(app: web.Application, job_id: str) -> JobRecord:
    record = await app[LEDGER].job_record(job_id)
    if record is None:
        raise Refusal(404, "job_not_found", f"job {job_id[:100]!r} was deleted meanwhile")
    return record


def why(error: str | None) -> str:
    """What the ledger's word of an error says in a sentence."""
    said: Mapping[str, Any] = json.loads(error) if error else {}
    return said.get("exception_message") or said.get("message") or "nobody knows why"


def made(app: web.Application, job: FullJob) -> list[Made]:
    """The pictures of a job, in the order that they were asked for; those that are still there."""
    prompt = json.loads(job.body.prompt)
    outputs: dict[str, Any] = json.loads(job.outputs)
    found: list[Made] = []
    for node_id in sorted(outputs, key=_place):
        for file in outputs[node_id].get("images", ()):
            if file["type"] != "output":
                continue
            place, name = app[FOLDERS].place(file["type"]), file["filename"]
            path = place / file["subfolder"] / name
            if path.is_file():
                seed = _seed(prompt, node_id)
                found.append(Made(path, name, file["subfolder"], file["type"], seed))
    return found


def _place(node_id: str) -> tuple[int, str]:
    """Where a branch stands among the others."""
    first = node_id.partition(":")[0]
    return (int(first) if first.isdecimal() else 0, node_id)


def _seed(prompt: Mapping[str, Any], node_id: str) -> int:
    """The seed of the branch that a node is in."""
    branch = node_id.partition(":")[0] + ":"
    for other, node in prompt.items():
        if other.startswith(branch) and isinstance(seed := node["inputs"].get("seed"), int):
            return seed
    return 0


async def keep_picture(request: web.Request, content: bytes, what: str) -> str:
    """Keep a picture that was sent, under its content's name: how ``LoadImage`` is told of it.

    Raises PictureError for what is none.
    """
    most = request.app[SETTINGS].max_picture_pixels
    directory = request.app[FOLDERS].place("input")
    name = f"{INPUTS}/{hashlib.sha256(content).hexdigest()}.png"

    def keep() -> None:
        if not (directory / name).is_file():
            write = partial(_write_png, content=content, most=most, what=what)
            save_as(directory, name, write)

    await note_upload(request, "input", name)  # before it is there: it is never nobody's
    try:
        await asyncio.to_thread(keep)
    except PathError as error:
        raise PictureError(f"{what} cannot be kept: {error}") from error
    return name


def repacked(picture: Made, most: int, format: Format, quality: int) -> Made:
    """The picture in another format, in a file beside it."""
    suffix = "jpg" if format == "jpeg" else format
    path = picture.path.with_suffix(f".{suffix}")
    if not path.is_file():
        content = packed(picture.path, most, format, quality)

        def write(stream: BinaryIO) -> None:
            stream.write(content)

        path = save_beside(path.parent, path.name, write)
    return replace(picture, path=path, filename=path.name)


def picture_url(request: web.Request, picture: Made) -> str:
    """Where a picture can be had for some time, without a token."""
    return sign(request, picture.filename, picture.subfolder, picture.type)


async def keep_mask(
    request: web.Request,
    content: bytes,
    what: str,
    *,
    repainted: Literal["transparent", "black"],
) -> str:
    """Keep a mask that was sent as a picture that is white where it is to be repainted.

    Raises PictureError for what is no picture, or has no transparency where that would say it.
    """
    from PIL import Image, ImageChops

    most = request.app[SETTINGS].max_picture_pixels

    def turned() -> bytes:
        with opened(BytesIO(content), most, name=what) as picture:
            if repainted == "black":
                shown = Image.new("RGBA", picture.size, "white")
                shown.alpha_composite(picture.convert("RGBA"))
                white = ImageChops.invert(shown.convert("L"))
            elif "A" in picture.getbands() or "transparency" in picture.info:
                white = ImageChops.invert(picture.convert("RGBA").getchannel("A"))
            else:
                raise PictureError(f"{what} has no transparent part, which would be repainted")
            stream = BytesIO()
            white.convert("RGB").save(stream, "PNG", compress_level=1)
            return stream.getvalue()

    return await keep_picture(request, await asyncio.to_thread(turned), what)


async def size_of(app: web.Application, content: bytes, what: str) -> tuple[int, int]:
    """Width and height of a picture that was sent, upright. Raises PictureError."""
    from PIL import ImageOps

    def look() -> tuple[int, int]:
        with opened(BytesIO(content), app[SETTINGS].max_picture_pixels, name=what) as picture:
            return ImageOps.exif_transpose(picture).size

    return await asyncio.to_thread(look)


def _write_png(stream: BinaryIO, *, content: bytes, most: int, what: str) -> None:
    """Write the first frame, upright."""
    from PIL import ImageOps

    with opened(BytesIO(content), most, name=what) as picture:
        upright = ImageOps.exif_transpose(picture)
        has_alpha = "A" in upright.getbands() or "transparency" in upright.info
        upright.convert("RGBA" if has_alpha else "RGB").save(stream, "PNG", compress_level=1)


def packed(path: Path, most: int, format: Format, quality: int) -> bytes:
    """A picture file in another format, without what PNG texts say. Raises PictureError."""
    with opened(path, most) as picture:
        frame = picture.convert("RGB")
        stream = BytesIO()
        options: dict[str, Any] = {} if format == "png" else {"quality": quality}
        frame.save(stream, format.upper(), **options)
        return stream.getvalue()


def request_data(face: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a request beside its workflow, to answer for it later."""
    return {"request": {"face": face, **json.loads(json_text(dict(said)))}}
