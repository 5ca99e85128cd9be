"""Edges of pictures, as a drawing that a control network follows.

Canny's detector (Canny 1986, "A computational approach to edge detection"): smooth, take the
gradient, keep its ridges, and of the weak ones those that continue a strong one. Kernels, borders
and thresholds are kornia's, which ComfyUI uses.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from executor.image_filters import mirrored

_LUMA = (0.299, 0.587, 0.114)  # Rec. 601
_EPSILON = 1e-6  # under the root of a gradient's length

# Where the next pixel lies in each eighth of the circle, from the right on and downwards: dy, dx.
_NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


def canny(image: Tensor, low: float, high: float) -> Tensor:
    """White edges on black (B, H, W), of pictures (B, H, W, C) in [0, 1].

    An edge's gradient, by Sobel's kernels in units of one grey level a pixel times 8, is above
    ``low``, and above ``high`` somewhere along it.
    """
    length, direction = _gradient(_smoothed(_grey(image)))
    ridges = length * _is_ridge(length, direction)
    return _connected(ridges > low, ridges > high).to(image.dtype)


def _grey(image: Tensor) -> Tensor:
    """(B, 1, H, W): how bright pictures are."""
    if image.shape[-1] < 3:
        return image[..., 0][:, None]
    return (image[..., :3] @ torch.tensor(_LUMA, device=image.device, dtype=image.dtype))[:, None]


def _smoothed(grey: Tensor) -> Tensor:
    """A Gaussian of standard deviation 1, cut off after two pixels; mirrored at the borders."""
    places = torch.arange(-2, 3, device=grey.device, dtype=grey.dtype)
    kernel = torch.exp(-(places**2) / 2)
    kernel = kernel / kernel.sum()
    rows = conv2d(mirrored(grey, 2, dim=2), kernel.view(1, 1, -1, 1))
    return conv2d(mirrored(rows, 2, dim=3), kernel.view(1, 1, 1, -1))


def _gradient(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Length, and direction in eighths of the circle (0 to the right, 2 downwards), (B, H, W)."""
    near = pad(grey, (1, 1, 1, 1), mode="replicate")
    difference = torch.tensor([-1.0, 0.0, 1.0], device=grey.device, dtype=grey.dtype)
    weight = torch.tensor([1.0, 2.0, 1.0], device=grey.device, dtype=grey.dtype)
    across = conv2d(near, (weight[:, None] * difference)[None, None])[:, 0]
    down = conv2d(near, (difference[:, None] * weight)[None, None])[:, 0]
    length = (across**2 + down**2 + _EPSILON).sqrt()
    eighths = (torch.atan2(down, across) * (4 / math.pi)).round().long() % 8
    return length, eighths


def _is_ridge(length: Tensor, direction: Tensor) -> Tensor:
    """Where a gradient is longer than those ahead and behind; beyond the border are none.

    Of two that are equal, as on either side of a hard edge, the one nearer to the light counts;
    kornia lets neither.
    """
    height, width = length.shape[-2:]
    around = pad(length, (1, 1, 1, 1))
    neighbours = torch.stack(
        [around[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in _NEIGHBOURS]
    )
    ahead = neighbours.gather(0, direction[None])[0]
    behind = neighbours.gather(0, (direction[None] + 4) % 8)[0]
    return (length > ahead) & (length >= behind)


def _connected(weak: Tensor, strong: Tensor) -> Tensor:
    """Strong pixels, and the weak ones that touch them, by a corner or by others of their kind."""
    found = strong
    while True:
        grown = max_pool2d(found[:, None].float(), 3, stride=1, padding=1)[:, 0].bool() & weak
        grown |= found
        if torch.equal(grown, found):
            return found
        found = grown
