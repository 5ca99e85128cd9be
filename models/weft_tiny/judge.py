"""Says what a picture shows, without a network: its background, and each shape with its colour.

The background is the median of the border; a shape is a connected region that differs from it. Its
colour is the nearest of the palette, its kind the template that it overlaps most. Made for flat
pictures: scenes are compared with what they should be instead.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.weft_tiny.shapes import COLOURS, KINDS, PALETTE, draw_shape

Mask = NDArray[np.bool_]
TEMPLATE_PX = 40
# Distance in RGB from which on a pixel is not background.
LEAST_DISTANCE = 45.0
# Smaller regions, in shares of the picture, are specks.
LEAST_AREA = 1 / 200


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape that was found; x and y are its middle in fractions of the side."""

    colour: str
    kind: str
    x: float
    y: float
    mask: Mask


@dataclass(frozen=True, slots=True)
class Seen:
    """What a picture shows, the largest shape first."""

    background: str
    shapes: list[Shape]


def nearest_colour(rgb: NDArray[np.floating]) -> str:
    values = np.array([PALETTE[name] for name in COLOURS], dtype=float)
    return COLOURS[int(((values - rgb) ** 2).sum(1).argmin())]


def cropped(mask: Mask) -> Mask:
    """The mask's own square, made as large as the templates."""
    ys, xs = np.where(mask)
    part = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    height, width = part.shape
    side = max(height, width)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = 255 * part
    scaled = Image.fromarray(square).resize((TEMPLATE_PX, TEMPLATE_PX), Image.Resampling.BOX)
    return np.asarray(scaled) > 127


@cache
def templates() -> dict[str, Mask]:
    """Each kind as a mask."""
    masks: dict[str, Mask] = {}
    for kind in KINDS:
        canvas = Image.new("RGB", (512, 512))
        draw_shape(canvas, kind, 0.5, 0.5, 0.35, (255, 255, 255))
        masks[kind] = cropped(np.asarray(canvas)[..., 0] > 127)
    return masks


def overlap(one: Mask, other: Mask) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def nearest_kind(mask: Mask) -> str:
    square = cropped(mask)
    return max(KINDS, key=lambda kind: overlap(square, templates()[kind]))


def seen_in(pixels: NDArray[np.uint8]) -> Seen:
    """What a flat picture shows."""
    values = pixels.astype(float)
    side = values.shape[0]
    band = max(2, side // 32)
    edge = np.ones((side, side), bool)
    edge[band:-band, band:-band] = False
    background = np.median(values[edge], axis=0)
    distance = np.sqrt(((values - background) ** 2).sum(-1))
    labels: NDArray[np.int32] = ndimage.label(distance > LEAST_DISTANCE)[0]  # type: ignore[index]
    masks = [labels == i for i in range(1, labels.max() + 1)]
    masks = [mask for mask in masks if mask.mean() >= LEAST_AREA]
    shapes: list[Shape] = []
    for mask in sorted(masks, key=lambda m: -m.sum()):
        core = mask & (distance >= np.percentile(distance[mask], 40))  # not the blurred rim
        ys, xs = np.where(mask)
        colour = nearest_colour(np.median(values[core], axis=0))
        x, y = float(xs.mean()) / side, float(ys.mean()) / side
        shapes.append(Shape(colour, nearest_kind(mask), x, y, mask))
    return Seen(nearest_colour(background), shapes)
