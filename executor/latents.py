"""Arithmetic on latents: rows of a batch, pasting, sizes, and what is encoded for inpainting.

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


def composite(onto: Latent, pasted: Latent, *, x: int, y: int, feather: int) -> Latent:
    """``pasted`` laid over ``onto`` with its corner at (x, y), cut at the border.

    Over ``feather`` latent pixels its edges fade in, but for those on the picture's border.
    """
    if pasted.samples.shape[1] != onto.samples.shape[1]:
        raise InputError(
            f"samples_from has {pasted.samples.shape[1]} channels and samples_to "
            f"{onto.samples.shape[1]}; both must come from the same kind of VAE"
        )
    if pasted.samples.shape[0] not in (1, onto.samples.shape[0]):
        raise InputError(
            f"samples_from holds {pasted.samples.shape[0]} latents and samples_to "
            f"{onto.samples.shape[0]}; give one, or as many"
        )
    height, width = onto.samples.shape[-2:]
    patch = pasted.samples[..., : max(0, height - y), : max(0, width - x)].to(onto.samples)
    bottom, right = y + patch.shape[-2], x + patch.shape[-1]
    down = _ramp(patch.shape[-2], feather, first=y > 0, last=bottom < height)
    across = _ramp(patch.shape[-1], feather, first=x > 0, last=right < width)
    weight = (down[:, None] * across[None, :]).to(patch)
    samples = onto.samples.clone()
    under = samples[..., y:bottom, x:right]
    samples[..., y:bottom, x:right] = patch * weight + under * (1 - weight)
    return replace(onto, samples=samples)


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
    noise_mask: Tensor  # (B or 1, H, W), 0 or 1


def repaint(pixels: Tensor, mask: Tensor, grow_by_px: int) -> Repaint:
    """Grey out pictures (B, H, W, C) under a mask; grow the mask, to have the seam repainted too.

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
    inside = cropped_to_latent(stretched[:, 0, :, :, None])[..., 0].round()
    pixels = cropped_to_latent(pixels[..., :3])
    greyed = (pixels - 0.5) * (1 - inside)[..., None] + 0.5
    return Repaint(greyed, grown(inside, grow_by_px))


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


def _ramp(length: int, feather: int, *, first: bool, last: bool) -> Tensor:
    """Weights (length,) that climb to 1 within ``feather`` steps from the ends that ask for it."""
    climb = torch.ones(length)
    if feather > 0:
        from_start = torch.arange(1, length + 1) / feather
        climb = climb * from_start.clamp(max=1) if first else climb
        climb = climb * from_start.flip(0).clamp(max=1) if last else climb
    return climb
