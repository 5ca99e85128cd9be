"""Filters over pictures: blur, sharpen, fewer colours, noise, morphology."""

import math

import numpy as np
import pytest
import torch
from laws import check_pure, noise
from pydantic import ValidationError
from scipy import ndimage
from torch import Tensor

from executor import Context, Node
from executor.image_filters import bayer, mirrored
from nodes.filters import (
    Canny,
    ImageAddNoise,
    ImageBlur,
    ImageQuantize,
    ImageSharpen,
    Morphology,
)


@pytest.mark.parametrize(
    "node",
    [
        ImageBlur(image=noise(2, 6, 5, 3)),
        ImageSharpen(image=noise(2, 6, 5, 4)),
        ImageQuantize(image=noise(1, 6, 5, 3), colors=4, dither="bayer-2"),
        ImageAddNoise(image=noise(1, 6, 5, 3), seed=3),
        Morphology(image=noise(1, 6, 5, 3), operation="close"),
        Canny(image=noise(1, 6, 5, 3)),
    ],
    ids=lambda node: type(node).__name__,
)
def test_inputs_are_left_alone_and_give_the_same_again(node: Node, ctx: Context) -> None:
    check_pure(node, ctx)


def spot() -> Tensor:
    """One white pixel in the middle of 7 × 7 black ones."""
    image = torch.zeros(1, 7, 7, 3)
    image[:, 3, 3] = 1
    return image


# -- blur and sharpen --------------------------------------------------------------------------


def test_a_blurred_spot_is_the_kernel_with_sigma_in_radii(ctx: Context) -> None:
    found = ImageBlur(image=spot(), blur_radius=2, sigma=0.5).run(ctx)[0, :, :, 1]
    weights = [math.exp(-((place / 2) ** 2) / (2 * 0.5**2)) for place in (-2, -1, 0, 1, 2)]
    kernel = torch.tensor([[a * b for b in weights] for a in weights]) / sum(weights) ** 2
    torch.testing.assert_close(found[1:6, 1:6], kernel)
    assert float(found.sum()) == pytest.approx(1)


def test_borders_are_mirrored_without_the_border_itself(ctx: Context) -> None:
    places = torch.arange(5.0)[None, None, None]
    assert mirrored(places, 3, dim=3).flatten().tolist() == [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]
    assert mirrored(places[..., :2], 3, dim=3).flatten().tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    image = noise(1, 12, 9, 3)
    expected = ndimage.correlate1d(image.numpy(), [1 / 3] * 3, axis=1, mode="mirror")
    expected = ndimage.correlate1d(expected, [1 / 3] * 3, axis=2, mode="mirror")
    # so wide a Gaussian is flat to 5e-3; its weights are 0.3322, 0.3355, 0.3322
    found = ImageBlur(image=image, blur_radius=1, sigma=10).run(ctx).numpy()
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_flat_picture_stays_flat_however_small(ctx: Context) -> None:
    for size in ((1, 1), (2, 3), (40, 1)):
        image = torch.full((1, *size, 3), 0.3)
        torch.testing.assert_close(ImageBlur(image=image, blur_radius=31).run(ctx), image)
        sharp = ImageSharpen(image=image, sharpen_radius=31).run(ctx)
        # ten times the rounding of a blur
        torch.testing.assert_close(sharp, image, rtol=1e-4, atol=1e-5)


def test_sharpening_adds_ten_times_what_a_blur_takes_away(ctx: Context) -> None:
    image = 0.4 + 0.01 * noise(1, 8, 8, 3)
    blur = ImageBlur(image=image, blur_radius=2, sigma=0.7).run(ctx)
    sharp = ImageSharpen(image=image, sharpen_radius=2, sigma=0.7, alpha=0.5).run(ctx)
    torch.testing.assert_close(sharp, image + 5 * (image - blur))
    assert torch.equal(ImageSharpen(image=image, alpha=0).run(ctx), image)


# -- noise -------------------------------------------------------------------------------------


def test_noise_is_that_of_its_seed_and_cut_off_at_the_ends(ctx: Context) -> None:
    grey = torch.full((1, 64, 64, 3), 0.5)
    noisy = ImageAddNoise(image=grey, seed=7, strength=0.1).run(ctx)
    expected = torch.randn(grey.shape, generator=torch.Generator().manual_seed(7)) * 0.1
    torch.testing.assert_close(noisy - grey, expected)
    assert torch.equal(ImageAddNoise(image=grey, strength=0).run(ctx), grey)
    loud = ImageAddNoise(image=grey, strength=1).run(ctx)
    assert (float(loud.min()), float(loud.max())) == (0, 1)


# -- colours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dither", ImageQuantize.inputs()["dither"].choices or ())
def test_no_more_colours_are_left_than_asked_for(ctx: Context, dither: str) -> None:
    node = ImageQuantize.model_validate(
        {"image": noise(2, 16, 16, 3), "colors": 5, "dither": dither}
    )
    for picture in node.run(ctx):
        assert 1 < len(picture.view(-1, 3).unique(dim=0)) <= 5


def test_a_picture_of_few_colours_keeps_them(ctx: Context) -> None:
    levels = torch.tensor([[0, 64, 128], [255, 0, 16], [8, 200, 30]]) / 255
    image = levels[torch.arange(48).view(1, 6, 8) % 3]
    assert torch.equal(ImageQuantize(image=image, colors=3).run(ctx), image)


def test_dithering_keeps_the_mean_where_colours_cannot(ctx: Context) -> None:
    ramp = torch.linspace(0.2, 0.8, 64)[None, None, :, None].expand(1, 64, -1, 3)
    for dither, closer in (("none", False), ("floyd-steinberg", True)):
        node = ImageQuantize.model_validate({"image": ramp, "colors": 2, "dither": dither})
        columns = node.run(ctx)[0, :, 20:44, 0].mean(dim=0)
        off = (columns - ramp[0, 0, 20:44, 0]).abs().max()
        assert (float(off) < 0.1) == closer


def test_bayers_pattern_has_every_rank_once_and_spreads_them() -> None:
    assert bayer(2).tolist() == [[-0.375, 0.125], [0.375, -0.125]]
    for order in (4, 8, 16):
        ranks = ((bayer(order) + 0.5) * order**2 - 0.5).round()
        assert sorted(ranks.flatten()) == list(range(order**2))
        # each of its quarters is a pattern of half the order
        quarter = (ranks[: order // 2, : order // 2] // 4 + 0.5) / (order // 2) ** 2 - 0.5
        np.testing.assert_allclose(quarter, bayer(order // 2), atol=1e-6)


# -- morphology --------------------------------------------------------------------------------


def morphed(image: Tensor, operation: str, size: int, ctx: Context) -> Tensor:
    values = {"image": image, "operation": operation, "kernel_size": size}
    return Morphology.model_validate(values).run(ctx)


@pytest.mark.parametrize("size", [3, 5, 9])
@pytest.mark.parametrize(
    ("operation", "reference"),
    [
        ("dilate", ndimage.grey_dilation),
        ("erode", ndimage.grey_erosion),
        ("open", ndimage.grey_opening),
        ("close", ndimage.grey_closing),
    ],
)
def test_morphology_is_scipys(ctx: Context, operation: str, reference, size: int) -> None:
    image = noise(1, 12, 7, 3)
    # "nearest" repeats the border, which changes no extreme within a square
    expected = np.stack(
        [reference(image[0, ..., c].numpy(), size=size, mode="nearest") for c in range(3)], -1
    )
    found = morphed(image, operation, size, ctx)[0].numpy()
    if operation in ("open", "close"):  # there the second pass sees the repeated border
        size -= 1
        found, expected = (one[size:-size, size:-size] for one in (found, expected))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [3, 4, 99])
def test_opening_only_takes_away_and_closing_only_adds(ctx: Context, size: int) -> None:
    image = noise(1, 12, 9, 3)
    opened, closed = morphed(image, "open", size, ctx), morphed(image, "close", size, ctx)
    assert (opened <= image).all()
    assert (closed >= image).all()
    assert torch.equal(morphed(opened, "open", size, ctx), opened)
    assert torch.equal(morphed(image, "top_hat", size, ctx), image - opened)
    assert torch.equal(morphed(image, "bottom_hat", size, ctx), closed - image)
    wide, narrow = morphed(image, "dilate", size, ctx), morphed(image, "erode", size, ctx)
    assert torch.equal(morphed(image, "gradient", size, ctx), wide - narrow)


def test_ranges_are_comfyuis() -> None:
    for node, name, value in (
        (ImageBlur, "blur_radius", 32),
        (ImageBlur, "sigma", 0.05),
        (ImageSharpen, "alpha", 5.01),
        (ImageQuantize, "colors", 257),
        (ImageAddNoise, "strength", 1.01),
        (Morphology, "kernel_size", 2),
        (Canny, "low_threshold", 0.0),
    ):
        with pytest.raises(ValidationError, match=name):
            node.model_validate({"image": noise(1, 4, 4, 3), name: value})
