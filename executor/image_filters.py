"""Filters over pictures (B, H, W, C), float32 in [0, 1]: blur, sharpen, fewer colours, morphology.

The rules are ComfyUI's, so that its workflows give the same pictures. Nothing here writes to its
arguments or asks a global random number generator.
"""

from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, pad

Dither: TypeAlias = Literal["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"]
Morphism: TypeAlias = Literal[
    "erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat"
]


def blurred(image: Tensor, radius: int, sigma: float) -> Tensor:
    """A Gaussian over 2 · ``radius`` + 1 pixels; ``sigma`` is measured in radii, as in ComfyUI.

    Beyond the border the picture is mirrored.
    """
    places = torch.linspace(-1, 1, 2 * radius + 1, device=image.device)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(image.dtype)
    channels = image.movedim(-1, 1).flatten(0, 1)[:, None]  # (B·C, 1, H, W)
    for dim, shape in ((2, (1, 1, -1, 1)), (3, (1, 1, 1, -1))):
        channels = conv2d(mirrored(channels, radius, dim), kernel.view(shape))
    return channels.view(image.shape[0], -1, *image.shape[1:3]).movedim(1, -1)


def sharpened(image: Tensor, radius: int, sigma: float, alpha: float) -> Tensor:
    """What a blur takes away is added, ten times ``alpha`` of it (unsharp masking)."""
    return (image + 10 * alpha * (image - blurred(image, radius, sigma))).clamp(0, 1)


def mirrored(samples: Tensor, pixels: int, dim: int) -> Tensor:
    """A side continued beyond both borders by its mirror image, the border pixel not repeated."""
    size = samples.shape[dim]
    places = torch.arange(-pixels, size + pixels, device=samples.device)
    if size == 1:
        return samples.index_select(dim, torch.zeros_like(places))
    places = places % (2 * size - 2)
    return samples.index_select(dim, torch.minimum(places, 2 * size - 2 - places))


def with_noise(image: Tensor, seed: int, strength: float) -> Tensor:
    """Gaussian noise of standard deviation ``strength`` added, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(image.shape, generator=generator).to(image)
    return (image + strength * noise).clamp(0, 1)


def quantized(image: Tensor, colors: int, dither: Dither) -> Tensor:
    """Pictures of at most so many colours each, chosen by median cut; transparency is left out."""
    levels = (image[..., :3].float().cpu() * 255).clamp(0, 255).to(torch.uint8).numpy()
    pictures = [_quantized(Image.fromarray(one), colors, dither) for one in levels]
    stacked = np.stack([np.asarray(one.convert("RGB"), np.float32) for one in pictures])
    return torch.from_numpy(stacked).to(image.device) / 255


def _quantized(picture: Image.Image, colors: int, dither: Dither) -> Image.Image:
    palette = picture.quantize(colors=colors)
    match dither:
        case "none":
            method = Image.Dither.NONE
        case "floyd-steinberg":
            method = Image.Dither.FLOYDSTEINBERG
        case ordered:
            picture = _with_pattern(picture, palette, int(ordered.removeprefix("bayer-")))
            method = Image.Dither.NONE
    return picture.quantize(palette=palette, dither=method)


def _with_pattern(picture: Image.Image, palette: Image.Image, order: int) -> Image.Image:
    """A picture with Bayer's pattern added, twice as strong as its colours lie apart."""
    spread = 2 * 256 / (len(palette.getpalette() or [0, 0, 0]) // 3)
    pattern = spread * bayer(order) + 0.5
    levels = np.asarray(picture, np.float32)
    height, width, _ = levels.shape
    repeats = (-(-height // order), -(-width // order))
    laid = np.tile(pattern, repeats)[:height, :width, None]
    return Image.fromarray((levels + laid).clip(0, 255).astype(np.uint8))


def bayer(order: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The thresholds of ordered dithering (Bayer 1973), between -1/2 and 1/2, of mean 0."""
    ranks = np.zeros((1, 1))
    while len(ranks) < order:
        ranks = np.block([[4 * ranks, 4 * ranks + 2], [4 * ranks + 3, 4 * ranks + 1]])
    return ((ranks + 0.5) / order**2 - 0.5).astype(np.float32)


def morphed(image: Tensor, operation: Morphism, size: int) -> Tensor:
    """Grey morphology with a square of ``size`` pixels; what lies outside does not count.

    A square of an even side lies half a pixel up and to the left of where it erodes, and its mirror
    image where it dilates, so that opening and closing move nothing.
    """
    match operation:
        case "dilate":
            return _dilated(image, size)
        case "erode":
            return _eroded(image, size)
        case "open":
            return _dilated(_eroded(image, size), size)
        case "close":
            return _eroded(_dilated(image, size), size)
        case "gradient":
            return _dilated(image, size) - _eroded(image, size)
        case "top_hat":
            return image - _dilated(_eroded(image, size), size)
        case "bottom_hat":
            return _eroded(_dilated(image, size), size) - image


def _dilated(image: Tensor, size: int) -> Tensor:
    """The greatest value of each channel in a square around each pixel."""
    return _greatest(image, before=(size - 1) // 2, after=size // 2)


def _eroded(image: Tensor, size: int) -> Tensor:
    """The least value."""
    return -_greatest(-image, before=size // 2, after=(size - 1) // 2)


def _greatest(image: Tensor, before: int, after: int) -> Tensor:
    """The greatest value within so many pixels up and left, and so many down and right."""
    greatest = pad(image, (0, 0, before, after, before, after), value=-torch.inf)
    for dim in (1, 2):
        reach = 1  # so many pixels, from each on, are looked at already
        while reach <= before + after:
            step = min(reach, before + after + 1 - reach)
            length = greatest.shape[dim] - step
            greatest = torch.maximum(
                greatest.narrow(dim, 0, length), greatest.narrow(dim, step, length)
            )
            reach += step
    return greatest
