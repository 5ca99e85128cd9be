"""The workflow that a PNG carries in its text chunks, read without decoding the picture.

As ComfyUI writes them: ``prompt`` holds the workflow in API format, ``workflow`` the editor's
graph, both as JSON. Light: no imaging library is needed. Writing is ``executor.pictures``'.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from executor.errors import PictureError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")
# Far above any workflow; keeps a few kilobytes from unpacking to gigabytes.
_MOST_BYTES = 64 << 20


class Embedded(NamedTuple):
    """What a PNG carries: the workflow, and the further JSON texts by name (``workflow`` …)."""

    prompt: Any
    extra_pnginfo: dict[str, Any]


def read_workflow(path: Path) -> Embedded:
    """The workflow that a PNG carries; if it has only the editor's graph, that.

    Raises PictureError if the file is no PNG or carries no workflow.
    """
    with path.open("rb") as stream:
        texts = read_texts(stream, path.name)
    found: dict[str, Any] = {}
    for name in texts:
        try:
            found[name] = json.loads(texts[name])
        except (ValueError, RecursionError) as error:
            if name in ("prompt", "workflow"):
                words = f"{path.name}: the workflow that it carries under {name!r} is damaged"
                raise PictureError(f"{words} ({error})") from error
    if "prompt" in found:
        prompt = found.pop("prompt")
        return Embedded(prompt, found)
    if "workflow" in found:
        return Embedded(found["workflow"], found)
    raise PictureError(
        f"{path.name} carries no workflow: it has no text chunk 'prompt' or 'workflow'; "
        "pictures lose them when edited or sent through most services"
    )


def read_texts(stream: BinaryIO, name: str) -> dict[str, str]:
    """All texts of a PNG by their keywords. Raises PictureError if it is none, or damaged."""
    texts: dict[str, str] = {}
    left = _MOST_BYTES
    for keyword, text in _texts(stream, name):
        left -= len(text)
        if left < 0:
            raise PictureError(f"{name} carries over {_MOST_BYTES} bytes of text")
        texts[keyword] = text
    return texts


def _texts(stream: BinaryIO, name: str) -> Iterator[tuple[str, str]]:
    """The text chunks of a PNG, in order; those before the end if it is cut off."""
    if stream.read(len(SIGNATURE)) != SIGNATURE:
        raise PictureError(f"{name} is no PNG; only PNG files carry workflows")
    while len(head := stream.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind not in _TEXT_KINDS:
            stream.seek(size + 4, 1)
            continue
        if size > _MOST_BYTES:
            raise PictureError(f"{name} carries a text of {size} bytes, which is no workflow")
        chunk = stream.read(size)
        check = stream.read(4)
        if len(check) == 4 and zlib.crc32(kind + chunk) != struct.unpack(">I", check)[0]:
            raise PictureError(f"{name} is damaged: a text chunk's checksum is wrong")
        keyword, separator, text = chunk.partition(b"\0")
        if separator and len(check) == 4:
            yield keyword.decode("latin-1"), _decoded(kind, text, name)


def _decoded(kind: bytes, text: bytes, name: str) -> str:
    """A chunk's text after its keyword (PNG specification, 11.3.3)."""
    if kind == b"tEXt":
        return text.decode("latin-1")
    if kind == b"zTXt":
        return _unpacked(text[1:], name).decode("latin-1")
    is_packed = text[:1] == b"\1"
    _language, _, rest = text[2:].partition(b"\0")
    _keyword, _, rest = rest.partition(b"\0")
    return (_unpacked(rest, name) if is_packed else rest).decode("utf-8", errors="replace")


def _unpacked(packed: bytes, name: str) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(packed, _MOST_BYTES)
    except zlib.error as error:
        raise PictureError(f"{name} is damaged: a text chunk cannot be unpacked") from error
    if unpacker.unconsumed_tail:
        raise PictureError(f"{name} carries a text of over {_MOST_BYTES} bytes unpacked")
    return unpacked
