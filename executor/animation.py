"""Several pictures as one moving picture: animated WebP and PNG files, which carry the workflow.

What is written, ``executor.pictures`` reads as frames. Names and folders are not known here.
"""

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL import Image
from torch import Tensor

from executor.errors import InputError
from executor.pictures import as_levels, text_chunks

_WEBP_SIDE = 16383  # of the format, as is what follows
_PNG_DURATION_MS = 65535

# Where ComfyUI puts texts in a WebP, which has EXIF fields and no others: the workflow into the
# camera's model, all else into the fields before it, each with its name in front.
_EXIF_MODEL = 0x0110


def write_webp(
    stream: BinaryIO,
    images: Tensor,
    texts: Mapping[str, Any],
    *,
    fps: float,
    lossless: bool,
    quality: int,
    method: int,
) -> None:
    """Write pictures (B, H, W, C) as an animated WebP; ``method`` 0 is fast, 6 is small."""
    if max(images.shape[1:3]) > _WEBP_SIDE:
        size = f"{images.shape[2]}×{images.shape[1]}"
        raise InputError(
            f"a WebP is at most {_WEBP_SIDE} pixels high and wide, got {size}; "
            "use SaveAnimatedPNG, or smaller pictures"
        )
    first, *others = _frames(images)
    exif = first.getexif()
    exif[_EXIF_MODEL] = f"prompt:{json.dumps(texts.get('prompt'))}"
    rest = {name: value for name, value in texts.items() if name != "prompt"}
    for place, (name, value) in enumerate(rest.items(), 1):
        exif[_EXIF_MODEL - place] = f"{name}:{json.dumps(value)}"
    first.save(
        stream,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=_duration_ms(fps),
        lossless=lossless,
        quality=quality,
        method=method,
        exif=exif,
    )


def write_png(
    stream: BinaryIO,
    images: Tensor,
    texts: Mapping[str, Any],
    *,
    fps: float,
    compress_level: int,
) -> None:
    """Write pictures (B, H, W, C) as an animated PNG.

    The texts are in front, as in any PNG; ComfyUI hides them in chunks of its own behind the first
    picture, and reads both.
    """
    first, *others = _frames(images)
    first.save(
        stream,
        "PNG",
        save_all=True,
        append_images=others,
        duration=min(_duration_ms(fps), _PNG_DURATION_MS),
        compress_level=compress_level,
        pnginfo=text_chunks(texts),
    )


def _frames(images: Tensor) -> list[Image.Image]:
    if not len(images):
        raise InputError("there is no picture to keep")
    frames = [as_levels(pixels) for pixels in images]
    return [Image.fromarray(one[..., 0] if one.shape[2] == 1 else one) for one in frames]


def _duration_ms(fps: float) -> int:
    """How long each picture is seen: cut off to whole milliseconds, as in ComfyUI."""
    return int(1000 / fps)
