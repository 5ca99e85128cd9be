"""Picture files to tensors and back.

Reading takes what people have: any common format, rotated by EXIF, animated, 16-bit, with a palette
or transparency; ``executor.picture_file`` refuses what is none. Writing makes 8-bit PNGs that carry
texts. Names and folders are not known here.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, PngImagePlugin
from torch import Tensor

from executor.errors import InputError, PictureError
from executor.picture_file import frame_count, opened

Channel: TypeAlias = Literal["alpha", "red", "green", "blue"]

_NO_MASK = 64  # side of the empty mask of a picture without transparency, as in ComfyUI
# Integer and float greyscale, which "convert" would clip at 255.
_DEEP_GREY = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_MOST = np.float32(255)
_MOST_DEEP = 65535  # 16 bits; Pillow gives some 16-bit files as mode "I"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """The frames of a picture file, and their opacity if it says any."""

    frames: Tensor  # (B, H, W, 3), float32 in [0, 1]
    alpha: Tensor | None  # (B, H, W), float32 in [0, 1]

    @property
    def mask(self) -> Tensor:
        """1 where the picture is transparent; all 0 and (B, 64, 64) if it never is."""
        if self.alpha is None:
            return torch.zeros(self.frames.shape[0], _NO_MASK, _NO_MASK)
        return 1 - self.alpha

    def channel(self, channel: Channel) -> Tensor:
        """One channel as a mask (B, H, W); of alpha, its complement, 0 where there is none."""
        if channel == "alpha":
            return torch.zeros(self.frames.shape[:3]) if self.alpha is None else 1 - self.alpha
        return self.frames[..., ("red", "green", "blue").index(channel)].clone()


def read(path: Path, max_pixels: int) -> Picture:
    """All frames of a picture file that have the size of the first.

    Raises PictureError if the file is not a picture, is damaged, or has more than ``max_pixels``.
    """
    with opened(path, max_pixels) as picture:
        frames = list(_frames(picture, path))
    colours = np.stack([colour for colour, _ in frames])
    if all(alpha is None for _, alpha in frames):
        return Picture(torch.from_numpy(colours), None)
    opaque = np.ones(colours.shape[1:3], np.float32)
    alphas = np.stack([opaque if alpha is None else alpha for _, alpha in frames])
    return Picture(torch.from_numpy(colours), torch.from_numpy(alphas))


def write_png(
    stream: BinaryIO, pixels: Tensor, texts: Mapping[str, Any], *, compress_level: int = 4
) -> None:
    """Write pixels (H, W, C), C of 1, 3 or 4, as an 8-bit PNG with ``texts`` as JSON in it."""
    levels = as_levels(pixels)
    picture = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    picture.save(stream, "PNG", pnginfo=text_chunks(texts), compress_level=compress_level)


def as_levels(pixels: Tensor) -> NDArray[np.uint8]:
    """Pixels (H, W, C) as 8-bit levels: cut off, not rounded, as ComfyUI does.

    Raises InputError for what is no picture.
    """
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise InputError(
            f"a picture has 1, 3 or 4 channels; got a tensor of shape {tuple(pixels.shape)}"
        )
    if pixels.isnan().any():
        raise InputError(
            "the picture holds values that are no numbers: a model overflowed. "
            "Compute it in float32 or bfloat16"
        )
    return (pixels.detach().float().cpu() * 255).clamp(0, 255).to(torch.uint8).numpy()


def text_chunks(texts: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
    """Texts as JSON in a PNG's chunks; those whose name a PNG cannot hold are left out."""
    chunks = PngImagePlugin.PngInfo()
    for name, value in texts.items():
        if 1 <= len(name) <= 79 and name.isascii() and name.isprintable():
            chunks.add_text(name, json.dumps(value))
    return chunks


def _frames(
    picture: Image.Image, path: Path
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
    """Colours (H, W, 3) and alpha (H, W) of each frame of the first one's size."""
    stored, size = picture.size, None
    for frame in islice(ImageSequence.Iterator(picture), frame_count(picture)):
        if frame.size != stored:  # a page of another size is not even decoded
            continue
        upright = ImageOps.exif_transpose(frame)
        size = size or upright.size
        if upright.mode == "I" and int(np.asarray(upright).max()) > _MOST_DEEP:
            raise PictureError(f"{path.name} has 32-bit samples; save it with 16 or 8 bits")
        if upright.size == size:
            yield _colours(upright), _alpha(upright)


def _colours(frame: Image.Image) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1]; colours under transparency as they are stored."""
    if frame.mode in _DEEP_GREY:
        grey = np.asarray(frame, np.float32)
        if frame.mode != "F":
            grey /= _MOST_DEEP
        return np.repeat(np.nan_to_num(grey).clip(0, 1)[..., None], 3, axis=2)
    return np.asarray(frame.convert("RGB"), np.float32) / _MOST


def _alpha(frame: Image.Image) -> NDArray[np.float32] | None:
    """(H, W) in [0, 1], from an alpha channel or a transparent colour; None if there is neither."""
    if "A" in frame.getbands():
        return np.asarray(frame.getchannel("A"), np.float32) / _MOST
    if "transparency" in frame.info and frame.mode not in _DEEP_GREY:
        return np.asarray(frame.convert("RGBA").getchannel("A"), np.float32) / _MOST
    return None
