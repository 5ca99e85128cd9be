"""Latents: rows of a batch, sizes, and what is encoded for inpainting.

Nothing here knows a model or writes to its arguments. Sizes are in latent pixels, one for
``PIXELS`` of the picture, unless a name says otherwise. The rules are ComfyUI's, so that its
workflows give the same latents.
"""

from dataclasses import replace
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from executor.errors import InputError
from executor.ports import Latent
from executor.resampling import Method, resize

PIXELS = 8
"""Width of the picture that one latent pixel stands for."""


def rows(latent: Latent, start: int, count: int) -> Latent:
    """Some pictures of a batch, with their masks and the places that their noise was drawn for."""
    batch = latent.samples.shape[0]
    start = min(start, batch - 1)
    stop = min(start + count, batch)
    mask = latent.noise_mask
    if mask is not None and mask.shape[0] > 1:
        mask = _cycled(mask, batch)[start:stop]
    index = latent.batch_index or tuple(range(batch))
    return Latent(latent.samples[start:stop], mask, index[start:stop])


def repeated(latent: Latent, times: int) -> Latent:
    """The batch ``times`` over; known noise places go on where the last repetition ended."""
    samples, mask, index = latent.samples, latent.noise_mask, latent.batch_index
    if mask is not None and mask.shape[0] > 1:
        mask = _cycled(mask, samples.shape[0]).repeat(times, 1, 1)
    if index is not None:
        span = max(index) - min(index) + 1
        index = tuple(place + turn * span for turn in range(times) for place in index)
    return Latent(samples.repeat(times, 1, 1, 1), mask, index)


def batched(first: Latent, second: Latent) -> Latent:
    """Both batches in one; the second in the size of the first, cut to its proportions."""
    samples = torch.cat([first.samples, sized_like(second.samples, first.samples)])
    index = [
        place
        for one in (first, second)
        for place in one.batch_index or tuple(range(len(one.samples)))
    ]
    return replace(first, samples=samples, batch_index=tuple(index))


def sized_like(samples: Tensor, other: Tensor, method: Method = "bilinear") -> Tensor:
    """Latents in another's height and width, cut to its proportions; channels must be equal."""
    if samples.shape[1] != other.shape[1]:
        raise InputError(
            f"latents of {samples.shape[1]} and of {other.shape[1]} channels cannot be combined; "
            "both must come from the same kind of VAE"
        )
    if samples.shape[2:] == other.shape[2:]:
        return samples
    return resize(samples, other.shape[3], other.shape[2], method, "center")


def cropped(latent: Latent, *, x: int, y: int, width: int, height: int) -> Latent:
    """A part of latents, in latent pixels; a corner too far out is moved to leave 8 each way."""
    old_height, old_width = latent.samples.shape[-2:]
    x, y = max(0, min(x, old_width - 8)), max(0, min(y, old_height - 8))
    return replace(latent, samples=latent.samples[..., y : y + height, x : x + width])


def pixel_size(latent: Latent, width_px: int, height_px: int) -> tuple[int, int]:
    """The asked-for (width, height) in pixels of the picture, at least 64.

    A side of 0 follows from the other; two keep the size.
    """
    height, width = latent.samples.shape[-2:]
    if width_px == 0 and height_px == 0:
        return width * PIXELS, height * PIXELS
    if width_px == 0:
        width_px = round(width * max(64, height_px) / height)
    elif height_px == 0:
        height_px = round(height * max(64, width_px) / width)
    return max(64, width_px), max(64, height_px)


def cropped_to_latent(pixels: Tensor) -> Tensor:
    """The middle of pictures (B, H, W, C) whose sides are multiples of ``PIXELS``."""
    for side in (1, 2):
        excess = pixels.shape[side] % PIXELS
        pixels = pixels.narrow(side, excess // 2, pixels.shape[side] - excess)
    return pixels


class Repaint(NamedTuple):
    """What to encode, and where the sampler is free."""

    pixels: Tensor  # (B, H, W, 3), mid grey where the mask is
    noise_mask: Tensor  # (B or 1, H, W), in [0, 1]


def repaint(pixels: Tensor, mask: Tensor, grow_by_px: int) -> Repaint:
    """Grey out pictures (B, H, W, C) under a mask; grow the mask, to have the seam repainted too.

    Afterwards the mask is 0 or 1.
    """
    ready = greyed(pixels, mask)
    return Repaint(ready.pixels, grown(ready.noise_mask.round(), grow_by_px))


def greyed(pixels: Tensor, mask: Tensor) -> Repaint:
    """Grey out pictures (B, H, W, C) where a mask is above ½.

    Both are cut to what a latent can stand for. A mask (B or 1, H', W') is stretched.
    """
    if mask.shape[0] not in (1, pixels.shape[0]):
        raise InputError(
            f"mask holds {mask.shape[0]} masks for {pixels.shape[0]} pictures; give one, or as many"
        )
    if pixels.shape[1] < PIXELS or pixels.shape[2] < PIXELS:
        raise InputError(
            f"pixels are {pixels.shape[2]}×{pixels.shape[1]}; the least that can be encoded is 8×8"
        )
    size = pixels.shape[1:3]
    stretched = functional.interpolate(mask[:, None].to(pixels), size=size, mode="bilinear")
    inside = cropped_to_latent(stretched[:, 0, :, :, None])[..., 0]
    pixels = cropped_to_latent(pixels[..., :3])
    return Repaint((pixels - 0.5) * (1 - inside.round())[..., None] + 0.5, inside)


def grown(mask: Tensor, by_px: int) -> Tensor:
    """A mask (B, H, W) of 0 and 1, set wherever a square of ``by_px`` around a pixel meets it.

    A square of an even side lies half a pixel up and to the left.
    """
    if by_px < 2:
        return mask
    square = torch.ones(1, 1, by_px, by_px, dtype=mask.dtype, device=mask.device)
    met = functional.conv2d(mask[:, None], square, padding=ceil((by_px - 1) / 2))[:, 0]
    return met[:, : mask.shape[1], : mask.shape[2]].clamp(0, 1).round()


def _cycled(mask: Tensor, count: int) -> Tensor:
    """One mask for each of ``count`` pictures: the given ones in turn."""
    return mask.repeat(ceil(count / mask.shape[0]), 1, 1)[:count]
