"""Arithmetic on masks (B, H, W), float32 in [0, 1]; nothing here writes to its arguments.

Where ComfyUI has the operation, the result is ComfyUI's, so that its workflows repaint the same
pixels.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from executor.errors import InputError

Operation: TypeAlias = Literal["multiply", "add", "subtract", "and", "or", "xor"]

# Rec. 709 luma: how bright the eye finds each of red, green and blue.
_LUMA = (0.2126, 0.7152, 0.0722)


def grow(mask: Tensor, pixels: int, *, tapered_corners: bool = True) -> Tensor:
    """Widen what is masked by so many pixels, or narrow it if negative.

    With tapered corners a point grows to a diamond, else to a square: grey dilation, and erosion,
    with a cross or a full 3 × 3 neighbourhood, repeated. What lies outside does not count.
    """
    grown = mask if pixels >= 0 else -mask
    # After as many repetitions as the mask has rows and columns, nothing changes any more.
    for _ in range(min(abs(pixels), mask.shape[-2] + mask.shape[-1])):
        across = _spread(grown, grown, dim=2)
        grown = _spread(across, grown if tapered_corners else across, dim=1)
    return grown.clone() if pixels >= 0 else -grown


def _spread(mask: Tensor, source: Tensor, dim: int) -> Tensor:
    """A mask, raised to where ``source`` is one pixel before or behind.

    A sixth of the time of max pooling on a CPU.
    """
    spread = mask.clone()
    size = mask.shape[dim] - 1
    for to, of in ((0, 1), (1, 0)):
        place = spread.narrow(dim, to, size)
        place.copy_(torch.maximum(place, source.narrow(dim, of, size)))
    return spread


def feather(
    mask: Tensor, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0
) -> Tensor:
    """Fade a mask out towards the picture's borders, linearly over so many pixels.

    As in ComfyUI, the ramps at the right and at the bottom begin one pixel late and their faintest
    value falls on the first column and row.
    """
    height, width = mask.shape[-2:]
    return mask * _ramps(left, right, width, mask) * _ramps(top, bottom, height, mask)[:, None]


def _ramps(start: int, end: int, size: int, like: Tensor) -> Tensor:
    """What each of ``size`` columns is multiplied with."""
    factors = torch.ones(size)
    start, end = min(start, size), min(end, size)
    for index in range(start):
        factors[index] *= (index + 1) / start
    for index in range(end):
        factors[-index] *= (index + 1) / end  # -0 is the first one
    return factors.to(like)


def soften(mask: Tensor, pixels: int) -> Tensor:
    """Blur a mask's edges over so many pixels to either side.

    A Gaussian whose standard deviation is half of that, so that 95 % of the change lies within.
    """
    if pixels < 1:
        return mask.clone()
    offsets = torch.arange(-2 * pixels, 2 * pixels + 1, device=mask.device, dtype=mask.dtype)
    kernel = torch.exp(-2 * (offsets / pixels) ** 2)  # of variance (pixels / 2)²
    kernel = kernel / kernel.sum()
    blurred = mask[:, None]
    for dim, shape in ((3, (1, 1, 1, -1)), (2, (1, 1, -1, 1))):
        near = _edge_padded(blurred, 2 * pixels, dim)
        blurred = torch.nn.functional.conv2d(near, kernel.view(shape))
    return blurred[:, 0].clamp(0, 1)


def _edge_padded(samples: Tensor, pixels: int, dim: int) -> Tensor:
    """(B, C, H, W) continued beyond both borders of a side with the values at the border."""
    size = samples.shape[dim]
    index = torch.arange(-pixels, size + pixels, device=samples.device).clamp(0, size - 1)
    return samples.index_select(dim, index)


def combine(destination: Tensor, source: Tensor, x: int, y: int, operation: Operation) -> Tensor:
    """``source`` laid on ``destination`` with its corner at (x, y), cut at the border."""
    result = destination.clone()
    there = result[:, y : y + source.shape[1], x : x + source.shape[2]]
    laid = as_many(source, destination.shape[0])[:, : there.shape[1], : there.shape[2]]
    is_there, is_laid = there.round().bool(), laid.round().bool()
    combined = {
        "multiply": lambda: there * laid,
        "add": lambda: there + laid,
        "subtract": lambda: there - laid,
        "and": lambda: (is_there & is_laid).to(result.dtype),
        "or": lambda: (is_there | is_laid).to(result.dtype),
        "xor": lambda: (is_there ^ is_laid).to(result.dtype),
    }[operation]()
    result[:, y : y + source.shape[1], x : x + source.shape[2]] = combined
    return result.clamp(0, 1)


def solid(width: int, height: int, value: float, device: torch.device) -> Tensor:
    """A mask (1, height, width) of one value."""
    return torch.full((1, height, width), value, device=device)


def rectangle(
    width: int, height: int, box: tuple[int, int, int, int], device: torch.device
) -> Tensor:
    """A mask (1, height, width) that is 1 inside of ``box``: its x, y, width and height."""
    x, y, box_width, box_height = box
    mask = solid(width, height, 0.0, device)
    mask[:, y : y + box_height, x : x + box_width] = 1
    return mask


def channel(image: Tensor, index: int) -> Tensor:
    """One channel of pictures (B, H, W, C) as masks."""
    if index >= image.shape[-1]:
        raise InputError(
            f"the picture has {image.shape[-1]} channels and so no "
            f"{'alpha' if index == 3 else f'channel {index}'}; LoadImage gives transparency as "
            "its second output, MASK"
        )
    return image[..., index].clone()


def of_colour(image: Tensor, colour: int) -> Tensor:
    """1 where pictures (B, H, W, C), rounded to 8 bits, are of just this colour, 0xRRGGBB.

    ComfyUI puts 255 there, which is no mask's value; what cuts it off at 1 does not differ.
    """
    levels = (image[..., :3].clamp(0, 1) * 255).round()
    wanted = torch.tensor([*colour.to_bytes(3, "big")], device=image.device)
    return (levels == wanted).all(dim=-1).to(torch.float32)


def luminance(image: Tensor) -> Tensor:
    """How bright pictures (B, H, W, C) are, as masks."""
    if image.shape[-1] < 3:
        return image[..., 0].clone()
    return image[..., :3] @ torch.tensor(_LUMA, device=image.device, dtype=image.dtype)


def cropped(mask: Tensor, *, x: int, y: int, width: int, height: int) -> Tensor:
    """A part of masks, cut at the border."""
    if x >= mask.shape[2] or y >= mask.shape[1]:
        size = f"{mask.shape[2]}×{mask.shape[1]}"
        raise InputError(f"the rectangle at ({x}, {y}) lies outside of the {size} mask")
    return mask[:, y : y + height, x : x + width]


def resized(mask: Tensor, width: int, height: int) -> Tensor:
    """A mask at another size, bilinearly."""
    return interpolate(mask[:, None], size=(height, width), mode="bilinear")[:, 0]


def as_many(batch: Tensor, count: int) -> Tensor:
    """The first ``count`` of a batch, which starts over if it has not as many."""
    if batch.shape[0] == 0:
        raise InputError("an empty batch cannot be repeated")
    times = -(-count // batch.shape[0])
    return batch.repeat(times, *[1] * (batch.ndim - 1))[:count]
