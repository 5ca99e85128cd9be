"""Other forms of a picture file: a preview, one channel, its alpha laid on another; or a check.

They stand upright, as nodes load them, whatever a camera wrote. Each decodes a picture, so each
takes its turn in a thread, and no more than two at a time: a picture may be 100 million pixels, and
the server is to stay small and quick beside it.
"""

import asyncio
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias, TypeVar, cast

from executor.errors import PictureError
from executor.picture_file import opened

if TYPE_CHECKING:
    from PIL.Image import Image

Result = TypeVar("Result")
Channel: TypeAlias = Literal["rgb", "a"]
PreviewFormat: TypeAlias = Literal["webp", "jpeg"]

AT_A_TIME = 2
# WebP holds no more (its specification), JPEG hardly so; a preview is for a screen.
_LONGEST_SIDE = 4096


class Decoding:
    """The turns that decoding takes."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_A_TIME)

    async def do(self, work: Callable[[], Result]) -> Result:
        """Do something with a picture, in a thread, when its turn has come."""
        async with self._turn:
            return await asyncio.to_thread(work)


def preview(path: Path, max_pixels: int, kind: PreviewFormat, quality: int) -> bytes:
    """The first frame, packed small. Raises PictureError."""
    from PIL import ImageOps

    with opened(path, max_pixels) as picture:
        if kind == "jpeg":
            picture.draft("RGB", (_LONGEST_SIDE, _LONGEST_SIDE))
        upright = ImageOps.exif_transpose(picture)
        frame = upright.convert("RGB" if kind == "jpeg" or not _is_clear(picture) else "RGBA")
        frame.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        stream = BytesIO()
        frame.save(stream, kind.upper(), quality=quality)
        return stream.getvalue()


def one_channel(path: Path, max_pixels: int, channel: Channel) -> bytes:
    """The colours alone, or the alpha of a black picture, as a PNG. Raises PictureError."""
    from PIL import Image, ImageOps

    with opened(path, max_pixels) as picture:
        upright = ImageOps.exif_transpose(picture)
        if channel == "rgb":
            shown = upright.convert("RGB")
        else:
            shown = Image.new("RGBA", upright.size)
            shown.putalpha(upright.convert("RGBA").getchannel("A"))
        stream = BytesIO()
        shown.save(stream, "PNG", compress_level=1)
        return stream.getvalue()


def check(file: Path | bytes, max_pixels: int, name: str) -> None:
    """Raise PictureError unless a file, or what would be in it, is a whole picture."""

    def source() -> Path | BytesIO:
        return file if isinstance(file, Path) else BytesIO(file)

    with opened(source(), max_pixels, name=name) as picture:
        is_png = picture.format == "PNG"
        if is_png:
            picture.verify()  # reads all of it, and its checksums, without decoding
    if not is_png:
        with opened(source(), max_pixels, name=name) as picture:
            picture.draft("RGB", (1, 1))  # a JPEG is still read to its end
            picture.load()


def write_masked(
    stream: BinaryIO, *, original: Path, mask: Path, max_pixels: int, name: str
) -> None:
    """Write a picture with the alpha of another as a PNG, which carries the texts of the first.

    Raises PictureError, also if the second has no alpha or another size.
    """
    from PIL import ImageOps, PngImagePlugin

    with opened(mask, max_pixels, name=name) as picture:
        if not _is_clear(picture):
            raise PictureError(f"{name} has no transparency, so it is no mask; send a PNG with it")
        alpha = picture.convert("RGBA").getchannel("A")
    with opened(original, max_pixels) as picture:
        texts = PngImagePlugin.PngInfo()
        if isinstance(picture, PngImagePlugin.PngImageFile):
            picture.load()  # texts may stand behind the pixels
            for key, text in cast("dict[str, str]", picture.text).items():
                texts.add_text(key, text)
        merged = ImageOps.exif_transpose(picture).convert("RGBA")
    if alpha.size != merged.size:
        sizes = [f"{width}×{height}" for width, height in (alpha.size, merged.size)]
        raise PictureError(
            f"{name} has {sizes[0]} pixels, but {original.name}, which it is for, {sizes[1]}"
        )
    merged.putalpha(alpha)
    merged.save(stream, "PNG", pnginfo=texts, compress_level=4)


def _is_clear(picture: "Image") -> bool:
    """Whether a picture says anything of opacity."""
    return "A" in picture.getbands() or "transparency" in picture.info
