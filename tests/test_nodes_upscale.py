"""Nodes that change the size of pictures."""

import pytest
import torch
from laws import check_pure, noise
from pydantic import ValidationError

from executor import Context, InputError, Node
from nodes.upscale import (
    ImageScale,
    ImageScaleBy,
    ImageScaleToMaxDimension,
    ImageScaleToTotalPixels,
)


@pytest.mark.parametrize(
    "node",
    [
        ImageScale(image=noise(2, 6, 4, 3), width=8, height=3, crop="center"),
        ImageScale(image=noise(2, 6, 4, 3), width=0, height=0),
        ImageScaleBy(image=noise(2, 6, 4, 3), scale_by=1.5, upscale_method="lanczos"),
        ImageScaleToTotalPixels(image=noise(1, 6, 4, 3), megapixels=0.01),
        ImageScaleToMaxDimension(image=noise(1, 6, 4, 3), largest_size=9),
    ],
    ids=lambda node: type(node).__name__,
)
def test_inputs_are_left_alone_and_give_the_same_again(node: Node, ctx: Context) -> None:
    check_pure(node, ctx)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(12, 5, (5, 12)), (12, 0, (8, 12)), (0, 2, (2, 3)), (0, 0, (4, 6))],
)
def test_a_picture_is_scaled_to_a_size(
    ctx: Context, width: int, height: int, expected: tuple[int, int]
) -> None:
    image = ImageScale(image=noise(2, 4, 6, 3), width=width, height=height).run(ctx)
    assert image.shape == (2, *expected, 3)


def test_a_picture_is_scaled_by_a_factor_and_to_megapixels(ctx: Context) -> None:
    image = noise(1, 4, 6, 3)
    doubled = ImageScaleBy(image=image, scale_by=2.0).run(ctx)
    assert torch.equal(doubled, image.repeat_interleave(2, 1).repeat_interleave(2, 2))
    megapixel = ImageScaleToTotalPixels(image=noise(1, 32, 32, 3), megapixels=0.25).run(ctx)
    assert megapixel.shape == (1, 512, 512, 3)


def test_a_factor_that_leaves_nothing_is_refused(ctx: Context) -> None:
    with pytest.raises(InputError, match="at least 1×1 pixels; got 0×0"):
        ImageScaleBy(image=noise(1, 4, 6, 3), scale_by=0.01).run(ctx)


@pytest.mark.parametrize(
    ("size", "expected"), [((4, 6), (8, 12)), ((6, 4), (12, 8)), ((5, 5), (12, 12))]
)
def test_the_longer_side_gets_the_size_that_is_said(
    ctx: Context, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = ImageScaleToMaxDimension(image=noise(1, *size, 3), largest_size=12).run(ctx)
    assert image.shape == (1, *expected, 3)


def test_shrinking_by_area_takes_the_mean(ctx: Context) -> None:
    image = noise(1, 4, 4, 3)
    shrunk = ImageScaleToMaxDimension(image=image, largest_size=2).run(ctx)
    torch.testing.assert_close(shrunk[0, 0, 1], image[0, :2, 2:].mean(dim=(0, 1)))


def test_ranges_are_comfyuis() -> None:
    for node, name, value in (
        (ImageScale, "width", 16385),
        (ImageScale, "upscale_method", "bislerp"),
        (ImageScaleBy, "scale_by", 8.01),
        (ImageScaleToTotalPixels, "megapixels", 16.1),
        (ImageScaleToMaxDimension, "largest_size", -1),
    ):
        with pytest.raises(ValidationError, match=name):
            node.model_validate({"image": noise(1, 4, 4, 3), name: value})
