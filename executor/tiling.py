"""What a network makes of large pictures, computed tile by tile, so that memory suffices.

Tiles overlap, and where they do they fade into one another. Where they lie, and how much each
weighs, is as in ComfyUI, so that its workflows give the same pictures. Nothing here knows a model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import torch
from torch import Tensor

Compute = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The part of one side that a tile covers, and how much its result weighs there."""

    start: int
    length: int
    out_start: int  # of the result
    weights: Tensor  # over the result; those of all windows of a side sum to 1 everywhere


def windows(size: int, tile: int, overlap: int, scale: Fraction) -> list[Window]:
    """Cut a side into tiles, each ``overlap`` into the one before; the last may be shorter.

    Weights climb linearly over the overlap at both ends of a tile.
    """
    assert 0 <= overlap < tile, f"tiles of {tile} cannot overlap by {overlap}"
    starts = range(0, size - overlap, tile - overlap) if size > tile else (0,)
    ramp = round(overlap * scale)
    found: list[Window] = []
    total = torch.zeros(round(size * scale))
    for start in starts:
        length = min(tile, size - start)
        weights = _climbing(round(length * scale), ramp)
        at = round(start * scale)
        total[at : at + len(weights)] += weights
        found.append(Window(start, length, at, weights))
    return [Window(w.start, w.length, w.out_start, w.weights / total[_span(w)]) for w in found]


def tiled(
    samples: Tensor, compute: Compute, *, tile: tuple[int, int], overlap: int, scale: Fraction
) -> Tensor:
    """``compute`` over tiles of each row of a batch (B, C, H, W), put together as float32.

    Args:
        compute: takes (1, C, h, w) to (1, C', scale · h, scale · w).
        tile: height and width of a tile, in pixels of ``samples``.
        overlap: of neighbouring tiles, less than a tile.
        scale: how many pixels of the result there are for one of ``samples``, along each side.
    """
    rows = windows(samples.shape[2], tile[0], overlap, scale)
    columns = windows(samples.shape[3], tile[1], overlap, scale)
    return torch.cat([_one(one[None], compute, rows, columns) for one in samples])


def _one(sample: Tensor, compute: Compute, rows: list[Window], columns: list[Window]) -> Tensor:
    """One picture (1, C, H, W) from its tiles."""
    if len(rows) == len(columns) == 1:
        return compute(sample).float()
    result: Tensor | None = None
    for row, column in product(rows, columns):
        part = sample.narrow(2, row.start, row.length).narrow(3, column.start, column.length)
        made = compute(part).float()
        if result is None:
            height, width = _end(rows[-1]), _end(columns[-1])
            result = made.new_zeros(1, made.shape[1], height, width)
        weight = (row.weights[:, None] * column.weights).to(made.device)
        result[:, :, _span(row), _span(column)] += made * weight
    assert result is not None, "a picture has at least one tile"
    return result


def _climbing(length: int, ramp: int) -> Tensor:
    """Weights (length,) that climb to 1 within ``ramp`` steps from both ends.

    A tile that is no longer than its ramp counts fully.
    """
    if ramp == 0 or ramp >= length:
        return torch.ones(length)
    climb = (torch.arange(1, length + 1) / ramp).clamp(max=1)
    return climb * climb.flip(0)


def _span(window: Window) -> slice:
    return slice(window.out_start, _end(window))


def _end(window: Window) -> int:
    return window.out_start + len(window.weights)
