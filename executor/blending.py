"""How the colours of two pictures (B, H, W, C) become one: blend modes, Porter and Duff.

Formulas and names are ComfyUI's. Values are float32 in [0, 1], and nothing here writes to its
arguments. Pictures are brought to one size here; where they lie is ``executor.compositing``'s.
"""

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from executor.compositing import with_channels
from executor.masks import as_many
from executor.resampling import resize_picture

Blend: TypeAlias = Literal["normal", "multiply", "screen", "overlay", "soft_light", "difference"]
Operator: TypeAlias = Literal[
    "ADD",
    "CLEAR",
    "DARKEN",
    "DST",
    "DST_ATOP",
    "DST_IN",
    "DST_OUT",
    "DST_OVER",
    "LIGHTEN",
    "MULTIPLY",
    "OVERLAY",
    "SCREEN",
    "SRC",
    "SRC_ATOP",
    "SRC_IN",
    "SRC_OUT",
    "SRC_OVER",
    "XOR",
]

_OPAQUE_FROM = 1e-5  # what is less opaque has no colour: dividing by it would make one up


class Layer(NamedTuple):
    """Pictures and how transparent they are."""

    image: Tensor  # (B, H, W, C)
    mask: Tensor  # (B, H, W), 1 where nothing is


def blended(first: Tensor, second: Tensor, share: float, mode: Blend) -> Tensor:
    """So much of the second picture, blended with the first, on the first; in the first's size."""
    second = with_channels(_sized(second, first), first.shape[3])
    count = max(len(first), len(second))
    first, second = as_many(first, count), as_many(second, count)
    return (first * (1 - share) + _blend(first, second, mode) * share).clamp(0, 1)


def _blend(below: Tensor, above: Tensor, mode: Blend) -> Tensor:
    match mode:
        case "normal":
            return above
        case "multiply":
            return below * above
        case "screen":
            return 1 - (1 - below) * (1 - above)
        case "overlay":
            light = 1 - 2 * (1 - below) * (1 - above)
            return torch.where(below <= 0.5, 2 * below * above, light)
        case "soft_light":  # as W3C's "Compositing and Blending" has it
            dark = below - (1 - 2 * above) * below * (1 - below)
            curve = torch.where(
                below <= 0.25, ((16 * below - 12) * below + 4) * below, below.clamp(min=0).sqrt()
            )
            return torch.where(above <= 0.5, dark, below + (2 * above - 1) * (curve - below))
        case "difference":  # signed: what would be negative is cut off
            return below - above


def composite(source: Layer, destination: Layer, operator: Operator) -> Layer:
    """Two layers as one (Porter and Duff 1984), in the size of the destination's pictures.

    As many as the shortest of the four has.
    """
    count = min(map(len, (*source, *destination)))
    image, mask = destination.image[:count], destination.mask[:count]
    over = with_channels(_sized(source.image[:count], image), image.shape[3])
    over_alpha = 1 - _sized(source.mask[:count, ..., None], image)
    alpha = 1 - _sized(mask[..., None], image)
    colours, opacity = _operated(over * over_alpha, over_alpha, image * alpha, alpha, operator)
    plain = torch.where(opacity > _OPAQUE_FROM, colours / opacity, 0).clamp(0, 1)
    return Layer(plain, 1 - opacity[..., 0])


def _operated(
    over: Tensor, a: Tensor, below: Tensor, b: Tensor, operator: Operator
) -> tuple[Tensor, Tensor]:
    """Colours, multiplied with their opacity, and opacity; ``a`` is that of ``over``."""
    either = a + b - a * b
    match operator:
        case "ADD":
            return (over + below).clamp(0, 1), (a + b).clamp(0, 1)
        case "CLEAR":
            return torch.zeros_like(below), torch.zeros_like(b)
        case "DARKEN":
            return (1 - b) * over + (1 - a) * below + torch.minimum(over, below), either
        case "DST":
            return below, b
        case "DST_ATOP":
            return a * below + (1 - b) * over, a
        case "DST_IN":
            return a * below, a * b
        case "DST_OUT":
            return (1 - a) * below, (1 - a) * b
        case "DST_OVER":
            return below + (1 - b) * over, b + (1 - b) * a
        case "LIGHTEN":
            return (1 - b) * over + (1 - a) * below + torch.maximum(over, below), either
        case "MULTIPLY":
            return over * below, a * b
        case "OVERLAY":
            light = a * b - 2 * (b - over) * (a - below)
            return torch.where(2 * below < b, 2 * over * below, light), either
        case "SCREEN":
            return over + below - over * below, either
        case "SRC":
            return over, a
        case "SRC_ATOP":
            return b * over + (1 - a) * below, b
        case "SRC_IN":
            return b * over, a * b
        case "SRC_OUT":
            return (1 - b) * over, (1 - b) * a
        case "SRC_OVER":
            return over + (1 - a) * below, a + (1 - a) * b
        case "XOR":
            return (1 - b) * over + (1 - a) * below, (1 - b) * a + (1 - a) * b


def _sized(image: Tensor, like: Tensor) -> Tensor:
    """Pictures in another's size, cut to its proportions."""
    height, width = like.shape[1:3]
    if image.shape[1:3] == (height, width):
        return image
    return resize_picture(image, width, height, "bicubic", "center")
