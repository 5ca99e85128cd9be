"""Changing the size of pictures and latents.

The methods and their rounding are ComfyUI's, so that its workflows give the same pictures: torch's
interpolation for most, Pillow's 8-bit Lanczos for pictures, and ``bislerp`` for latents. Results of
``bicubic`` may overshoot their range a little; what keeps pictures cuts that off.
"""

from math import sqrt
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from executor.errors import InputError

Method: TypeAlias = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos", "bislerp"]
Crop: TypeAlias = Literal["disabled", "center"]

# Of the cosine: beyond it two directions are one, or opposite, and slerp is not defined.
_PARALLEL = 1e-5


def resize(
    samples: Tensor, width: int, height: int, method: Method, crop: Crop = "disabled"
) -> Tensor:
    """(B, C, h, w) → (B, C, ``height``, ``width``), first cut to its proportions if wanted."""
    if width < 1 or height < 1:
        raise InputError(f"a size must be at least 1×1 pixels; got {width}×{height}")
    if crop == "center":
        samples = _cut_to_aspect(samples, width, height)
    if method == "lanczos":
        return _lanczos(samples, width, height)
    if method == "bislerp":
        return _bislerp(samples, width, height)
    return interpolate(samples, size=(height, width), mode=method)


def resize_picture(
    image: Tensor, width: int, height: int, method: Method, crop: Crop = "disabled"
) -> Tensor:
    """As ``resize``, for pictures (B, H, W, C)."""
    return resize(image.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


def with_aspect(width: int, height: int, wanted_width: int, wanted_height: int) -> tuple[int, int]:
    """The wanted size, where a side of 0 follows from the other."""
    if wanted_width == 0:
        wanted_width = max(1, round(width * wanted_height / height))
    elif wanted_height == 0:
        wanted_height = max(1, round(height * wanted_width / width))
    return wanted_width, wanted_height


def with_pixels(width: int, height: int, megapixels: float) -> tuple[int, int]:
    """The size of these proportions that has so many megapixels, of 1024 × 1024 each."""
    scale = sqrt(int(megapixels * 1024 * 1024) / (width * height))
    return round(width * scale), round(height * scale)


def with_longest(width: int, height: int, longest: int) -> tuple[int, int]:
    """The size of these proportions whose longer side is ``longest``."""
    if height > width:
        return round(width / height * longest), longest
    return longest, round(height / width * longest)


def _cut_to_aspect(samples: Tensor, width: int, height: int) -> Tensor:
    """The largest part around the centre that has the proportions of width × height."""
    old_height, old_width = samples.shape[-2:]
    old_aspect, aspect = old_width / old_height, width / height
    x = y = 0
    if old_aspect > aspect:
        x = round((old_width - old_width * (aspect / old_aspect)) / 2)
    elif old_aspect < aspect:
        y = round((old_height - old_height * (old_aspect / aspect)) / 2)
    # Of a picture one pixel wide, rounding could leave nothing.
    x, y = min(x, (old_width - 1) // 2), min(y, (old_height - 1) // 2)
    return samples[..., y : old_height - y, x : old_width - x]


def _lanczos(samples: Tensor, width: int, height: int) -> Tensor:
    """Lanczos, as Pillow computes it on 8 bits, which is what ComfyUI's files were made with."""
    if samples.shape[1] not in (1, 3, 4):
        raise InputError(f"lanczos is for pictures of 1, 3 or 4 channels; got {samples.shape[1]}")
    levels = (samples.float().cpu() * 255).clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()
    resized = [
        np.asarray(
            Image.fromarray(one[..., 0] if one.shape[2] == 1 else one).resize(
                (width, height), Image.Resampling.LANCZOS
            ),
            np.float32,
        ).reshape(height, width, -1)
        for one in levels
    ]
    pixels = torch.from_numpy(np.stack(resized)).movedim(-1, 1) / 255
    return pixels.to(samples.device, samples.dtype)


def _bislerp(samples: Tensor, width: int, height: int) -> Tensor:
    """Bilinear, but turning from one latent pixel's direction to the next instead of mixing them.

    Spherical interpolation (Shoemake 1985) of the channels; lengths are mixed linearly. First along
    the rows, then along the columns.
    """
    rows = _slerp_along(samples.float(), width, dim=3)
    return _slerp_along(rows, height, dim=2).to(samples.dtype)


def _slerp_along(samples: Tensor, size: int, dim: int) -> Tensor:
    """Resample one side; the positions are those of bilinear interpolation."""
    old_size = samples.shape[dim]
    ramp = torch.arange(old_size, dtype=torch.float32, device=samples.device)
    place = interpolate(ramp.view(1, 1, -1), size=size, mode="linear").flatten()
    before = place.long()
    after = (before + 1).clamp(max=old_size - 1)
    shape = [1, 1, 1, 1]
    shape[dim] = size
    return _slerp(
        samples.index_select(dim, before),
        samples.index_select(dim, after),
        (place - before).view(shape),
    )


def _slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """``a`` turned towards ``b`` by ``share`` of the angle between them, over dimension 1."""
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    unit_a = torch.where(length_a == 0, 0, a / length_a)
    unit_b = torch.where(length_b == 0, 0, b / length_b)
    cosine = (unit_a * unit_b).sum(dim=1, keepdim=True)
    angle = cosine.clamp(-1, 1).acos()
    turned = ((1 - share) * angle).sin() * unit_a + (share * angle).sin() * unit_b
    turned = turned / angle.sin() * (length_a * (1 - share) + length_b * share)
    turned = torch.where(cosine > 1 - _PARALLEL, a, turned)
    return torch.where(cosine < _PARALLEL - 1, a * (1 - share) + b * share, turned)
