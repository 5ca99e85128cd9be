"""Uploads of pictures, and of masks for pictures that are here.

A form is written to a hidden file as it comes and never held whole in memory; only what turns out
to be a picture is given a name. Files of the same name and content are kept once.
"""

import asyncio
import json
import secrets
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from executor.api.files import Place, find_readable, place_of
from executor.api.keys import DECODING, FOLDERS, SETTINGS
from executor.api.ownership import may_replace, note_upload
from executor.api.refusal import MAX_BODY_BYTES, Refusal, too_large
from executor.api.renditions import check, write_masked
from executor.api.replies import json_reply
from executor.api.tokens import refuse_the_scoped
from executor.errors import PathError
from executor.paths import PICTURE_KINDS, parts_of
from executor.saving import Write, save_as, save_beside

MOST_FIELDS = 32
MOST_FIELD_BYTES = 64 * 2**10
_CHUNK_BYTES = 2**18

Save: TypeAlias = Callable[[Path, str, Write], Path]


@dataclass(slots=True)
class Form:
    """What was sent: one file, and texts."""

    file: Path
    filename: str = ""
    texts: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def place(self) -> Place:
        """Where the file is to be kept."""
        return place_of(self.texts.get("type") or "input")

    @property
    def name(self) -> str:
        """Its name there, with folders. Raises Refusal for one that cannot be."""
        name = "/".join(filter(None, (self.texts.get("subfolder"), self.filename)))
        try:
            parts = parts_of(name)
        except PathError as error:
            raise Refusal(400, "bad_file_name", str(error)) from error
        if any(part.startswith(".") for part in parts):
            raise Refusal(400, "bad_file_name", f"{name[:100]!r} is hidden: it begins with a dot")
        if PurePosixPath(name).suffix.lower() not in PICTURE_KINDS:
            words = f"{name[:100]!r} must end like a picture: {', '.join(sorted(PICTURE_KINDS))}"
            raise Refusal(400, "bad_file_name", words)
        return "/".join(parts)

    @property
    def may_replace(self) -> bool:
        """Whether it is to take the place of another file of its name."""
        return self.texts.get("overwrite", "").strip().lower() in ("true", "1")


async def upload_image(request: web.Request) -> web.Response:
    """Keep a picture."""
    most, directory = request.app[SETTINGS].max_picture_pixels, request.app[FOLDERS].place
    async with received(request) as form:
        name, where = form.name, directory(form.place)
        save = await _how_to_save(request, form, name)
        await request.app[DECODING].do(partial(check, form.file, most, form.filename))
        kept = await asyncio.to_thread(_keep, where, name, save, partial(_copy, form.file))
        return await _told(request, kept, where, form)


async def upload_mask(request: web.Request) -> web.Response:
    """Keep a picture that is here already, with the alpha of the one that is sent."""
    folders, most = request.app[FOLDERS], request.app[SETTINGS].max_picture_pixels
    async with received(request) as form:
        name, where = form.name, folders.place(form.place)
        name = str(PurePosixPath(name).with_suffix(".png"))  # whatever was sent
        place, filename, subfolder = _reference(form.texts.get("original_ref", ""))
        original = await find_readable(request, place, filename, subfolder)
        save = await _how_to_save(request, form, name)
        write = partial(
            write_masked, original=original, mask=form.file, max_pixels=most, name=form.filename
        )
        kept = await request.app[DECODING].do(partial(_keep, where, name, save, write))
        return await _told(request, kept, where, form)


async def _how_to_save(request: web.Request, form: Form, name: str) -> Save:
    """In place of a file of its name, or beside it; nobody replaces what is another's.

    Raises Refusal for a place that is not the caller's to fill.
    """
    if form.place == "output":
        refuse_the_scoped(request, "uploads among the results")
    is_wanted = form.may_replace and await may_replace(request, form.place, name)
    return save_as if is_wanted else save_beside


def _keep(directory: Path, name: str, save: Save, write: Write) -> Path:
    """Give a file its name. Raises Refusal, FileError."""
    try:
        return save(directory, name, write)
    except PathError as error:
        raise Refusal(400, "bad_file_name", str(error)) from error


async def _told(request: web.Request, kept: Path, directory: Path, form: Form) -> web.Response:
    """Note whose a file is, and say where it is, as clients give it to LoadImage."""
    await note_upload(request, form.place, kept.relative_to(directory).as_posix())
    subfolder = kept.parent.relative_to(directory).as_posix()
    subfolder = "" if subfolder == "." else subfolder
    return json_reply({"name": kept.name, "subfolder": subfolder, "type": form.place})


def _copy(file: Path, stream: BinaryIO) -> None:
    with file.open("rb") as source:
        shutil.copyfileobj(source, stream, _CHUNK_BYTES)


def _reference(text: str) -> tuple[Place, str, str]:
    """The picture that ``original_ref`` names: place, file name, subfolder. Raises Refusal."""
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    match said:
        case {"filename": str(filename)}:
            place, subfolder = said.get("type") or "output", said.get("subfolder") or ""
            if isinstance(place, str) and isinstance(subfolder, str):
                return place_of(place), filename, subfolder
        case _:
            pass
    words = 'original_ref must name a picture: {"filename": …, "subfolder": …, "type": …}'
    raise Refusal(400, "bad_request", words)


@asynccontextmanager
async def received(request: web.Request) -> AsyncGenerator[Form]:
    """A form with its file, which is gone afterwards. Raises Refusal for what is no such form."""
    if not request.content_type.startswith("multipart/"):
        words = f"send a multipart/form-data form with a file 'image', not {request.content_type}"
        raise Refusal(415, "no_form", words)
    temp = request.app[FOLDERS].place("temp")
    form = Form(temp / f".upload-{secrets.token_hex(8)}.part")
    try:
        await asyncio.to_thread(temp.mkdir, parents=True, exist_ok=True)
        try:
            await _read(request, form)
        # aiohttp's reader raises each of these on one kind of damage or another.
        except (ValueError, AssertionError, LookupError, RuntimeError, HttpProcessingError) as bad:
            raise Refusal(400, "bad_form", f"the form is damaged: {str(bad)[:200]}") from bad
        if not form.filename:
            raise Refusal(400, "no_file", "the form has no file 'image' with a filename")
        yield form
    finally:
        await asyncio.to_thread(form.file.unlink, missing_ok=True)


async def _read(request: web.Request, form: Form) -> None:
    """Take a form's fields as they come. Raises Refusal, and what aiohttp does for bad forms."""
    count = 0
    async for part in await request.multipart():
        count += 1
        if count > MOST_FIELDS or not isinstance(part, BodyPartReader):
            words = f"a form has at most {MOST_FIELDS} fields, and no forms in it"
            raise Refusal(400, "bad_form", words)
        if part.name == "image" and part.filename is not None:
            if form.filename:
                raise Refusal(400, "bad_form", "send one file 'image' at a time")
            form.filename = part.filename
            await _receive(part, form.file)
        else:
            form.texts[part.name or ""] = await _text(part)


async def _receive(part: BodyPartReader, file: Path) -> None:
    """Write a file as it comes."""
    size = 0
    stream = await asyncio.to_thread(file.open, "xb")
    try:
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise too_large(MAX_BODY_BYTES)
            await asyncio.to_thread(stream.write, chunk)
    finally:
        await asyncio.to_thread(stream.close)


async def _text(part: BodyPartReader) -> str:
    """A field that is no file."""
    content = bytearray()
    while chunk := await part.read_chunk():
        content += chunk
        if len(content) > MOST_FIELD_BYTES:
            words = f"the field {str(part.name)[:40]!r} is larger than {MOST_FIELD_BYTES} bytes"
            raise Refusal(413, "request_too_large", words)
    return content.decode()


routes = [web.post("/upload/image", upload_image), web.post("/upload/mask", upload_mask)]
