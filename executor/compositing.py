"""Putting pictures (B, H, W, C) together: batches, pasting, borders to paint into.

Nothing here writes to its arguments. The rules are ComfyUI's, so that its workflows give the same
pictures.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from executor.errors import InputError
from executor.masks import as_many, resized
from executor.resampling import resize_picture


class Padded(NamedTuple):
    """A picture with room around it, and where that room is."""

    image: Tensor  # (B, H', W', C)
    mask: Tensor  # (1, H', W'), 1 where nothing is yet


def batched(first: Tensor, second: Tensor) -> Tensor:
    """Both batches in one; the second in the size of the first, cut to its proportions."""
    if second.shape[1:3] != first.shape[1:3]:
        height, width = first.shape[1:3]
        second = resize_picture(second, width, height, "bilinear", "center")
    channels = max(first.shape[3], second.shape[3])
    return torch.cat([with_channels(first, channels), with_channels(second, channels)])


def paste(
    destination: Tensor,
    source: Tensor,
    *,
    x: int,
    y: int,
    mask: Tensor | None = None,
    resize_source: bool = False,
) -> Tensor:
    """``source`` laid on ``destination`` with its corner at (x, y), where ``mask`` lets it show.

    The mask (B', H, W) is stretched to the source; both start over if they have too few.
    """
    height, width, channels = destination.shape[1:]
    if resize_source:
        source = resize_picture(source, width, height, "bilinear")
    source = as_many(with_channels(source, channels), destination.shape[0])
    shown = source[:, : max(0, height - y), : max(0, width - x)]
    if mask is None:
        weight = torch.ones_like(shown[..., :1])
    else:
        stretched = resized(mask, source.shape[2], source.shape[1])
        weight = as_many(stretched, source.shape[0])[:, : shown.shape[1], : shown.shape[2], None]
    result = destination.clone()
    under = result[:, y : y + shown.shape[1], x : x + shown.shape[2]]
    result[:, y : y + shown.shape[1], x : x + shown.shape[2]] = (
        weight * shown + (1 - weight) * under
    )
    return result


def with_border(
    image: Tensor, *, left: int, top: int, right: int, bottom: int, feathering: int
) -> Padded:
    """Grey room around a picture, to be painted into, with a mask that reaches into the picture.

    The mask falls from 1 with the square of the distance over ``feathering`` pixels, on the sides
    that grow; not at all where the picture is no larger than twice that.
    """
    height, width = image.shape[1:3]
    padded = pad(image, (0, 0, left, right, top, bottom), value=0.5)
    inner = torch.zeros(height, width, device=image.device)
    if feathering > 0 and 2 * feathering < min(height, width):
        down = _distances(height, top > 0, bottom > 0, image.device)
        across = _distances(width, left > 0, right > 0, image.device)
        distance = torch.minimum(down[:, None], across[None, :])
        inner = ((feathering - distance) / feathering).clamp(min=0) ** 2
    mask = pad(inner, (left, right, top, bottom), value=1.0)
    return Padded(padded, mask[None])


def cropped(image: Tensor, *, x: int, y: int, width: int, height: int) -> Tensor:
    """A part of pictures; a corner beyond the picture becomes its last pixel."""
    x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return image[:, y : y + height, x : x + width]


def _distances(size: int, at_start: bool, at_end: bool, device: torch.device) -> Tensor:
    """How far each row is from the sides that grow; ``inf`` if neither does."""
    places = torch.arange(size, device=device, dtype=torch.float32)
    never = torch.full_like(places, torch.inf)
    return torch.minimum(places if at_start else never, size - places if at_end else never)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """Pictures of 3 channels with a fourth, of no transparency, or of 4 without it."""
    if image.shape[3] == channels:
        return image
    if image.shape[3] == 4 and channels == 3:
        return image[..., :3]
    if image.shape[3] == 3 and channels == 4:
        return pad(image, (0, 1), value=1.0)
    raise InputError(f"pictures of {image.shape[3]} and of {channels} channels cannot be combined")


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor]:
    """The colours of pictures, and where they are transparent: nowhere, if they do not say."""
    if image.shape[3] > 3:
        return image[..., :3], 1 - image[..., 3]
    return image, torch.zeros_like(image[..., 0])


def join_alpha(image: Tensor, mask: Tensor) -> Tensor:
    """Pictures (B, H, W, 4) that are transparent where the mask (B', H', W') is 1.

    The mask is stretched; whichever there are fewer of starts over.
    """
    count = max(len(image), len(mask))
    stretched = resized(mask, image.shape[2], image.shape[1])
    alpha = 1 - as_many(stretched, count)[..., None]
    return torch.cat([as_many(image[..., :3], count), alpha], dim=-1)
