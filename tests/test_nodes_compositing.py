"""Nodes that put pictures together: pasting, room to paint into, blending, layers."""

import pytest
import torch
from laws import check_pure, noise
from pydantic import ValidationError
from torch import Tensor

from executor import Context, Node
from nodes.compositing import (
    ImageBlend,
    ImageCompositeMasked,
    ImagePadForOutpaint,
    JoinImageWithAlpha,
    PorterDuffImageComposite,
    SplitImageWithAlpha,
)


@pytest.mark.parametrize(
    "node",
    [
        ImageCompositeMasked(
            destination=noise(2, 6, 4, 3), source=noise(1, 3, 3, 4), x=2, y=1, mask=noise(1, 5, 5)
        ),
        ImagePadForOutpaint(image=noise(2, 9, 9, 3), left=8, feathering=3),
        ImageBlend(image1=noise(2, 6, 4, 3), image2=noise(1, 6, 4, 4, seed=1)),
        ImageBlend(image1=noise(2, 6, 4, 3), image2=noise(2, 3, 9, 3, seed=1)),
        PorterDuffImageComposite(
            source=noise(1, 6, 4, 3),
            source_alpha=noise(1, 6, 4, seed=1),
            destination=noise(1, 6, 4, 3, seed=2),
            destination_alpha=noise(1, 6, 4, seed=3),
            mode="XOR",
        ),
        SplitImageWithAlpha(image=noise(2, 6, 4, 4)),
        JoinImageWithAlpha(image=noise(2, 6, 4, 3), alpha=noise(1, 6, 4)),
    ],
    ids=lambda node: type(node).__name__,
)
def test_inputs_are_left_alone_and_give_the_same_again(node: Node, ctx: Context) -> None:
    check_pure(node, ctx)


# -- pasting ---------------------------------------------------------------------------------------


def test_a_picture_is_laid_on_another_and_nothing_else_changes(ctx: Context) -> None:
    destination, source = noise(2, 6, 8, 3), noise(1, 3, 4, 3, seed=1)
    result = ImageCompositeMasked(destination=destination, source=source, x=6, y=2).run(ctx)
    assert torch.equal(result[:, 2:5, 6:], source[:, :, :2].expand(2, -1, -1, -1))
    untouched = torch.ones(6, 8, dtype=torch.bool)
    untouched[2:5, 6:] = False
    assert torch.equal(result[:, untouched], destination[:, untouched])


def test_a_mask_lets_a_picture_show_in_part(ctx: Context) -> None:
    destination, source = torch.zeros(1, 4, 4, 3), torch.ones(1, 4, 4, 3)
    mask = noise(1, 4, 4)
    node = ImageCompositeMasked(destination=destination, source=source, mask=mask)
    assert torch.equal(node.run(ctx), mask[..., None].expand(-1, -1, -1, 3))
    stretched = ImageCompositeMasked(
        destination=destination, source=source, mask=torch.full((1, 2, 2), 0.5)
    )
    assert (stretched.run(ctx) == 0.5).all()


def test_a_picture_laid_outside_changes_nothing(ctx: Context) -> None:
    destination = noise(1, 4, 4, 3)
    node = ImageCompositeMasked(destination=destination, source=noise(1, 2, 2, 3), x=4, y=9)
    assert torch.equal(node.run(ctx), destination)


def test_a_resized_source_covers_all(ctx: Context) -> None:
    node = ImageCompositeMasked(
        destination=noise(1, 4, 4, 3), source=torch.ones(1, 2, 2, 3), resize_source=True
    )
    assert (node.run(ctx) == 1).all()


# -- outpainting -----------------------------------------------------------------------------------


def outpaint_mask(
    height: int, width: int, left: int, top: int, right: int, bottom: int, feathering: int
) -> Tensor:
    """ComfyUI's rule for the mask, pixel by pixel."""
    mask = torch.ones(1, top + height + bottom, left + width + right)
    for y in range(height):
        for x in range(width):
            far = max(height, width) * 2
            distance = min(
                y if top else far,
                height - y if bottom else far,
                x if left else far,
                width - x if right else far,
            )
            value = 0.0
            if feathering and feathering * 2 < min(height, width) and distance < feathering:
                value = ((feathering - distance) / feathering) ** 2
            mask[0, top + y, left + x] = value
    return mask


@pytest.mark.parametrize("borders", [(8, 0, 0, 0), (0, 8, 16, 0), (8, 8, 8, 8), (0, 0, 0, 0)])
@pytest.mark.parametrize("feathering", [0, 3, 6, 40])
def test_padding_is_grey_and_its_mask_fades_into_the_picture(
    ctx: Context, borders: tuple[int, int, int, int], feathering: int
) -> None:
    left, top, right, bottom = borders
    image = noise(2, 13, 14, 3)
    padded, mask = ImagePadForOutpaint(
        image=image, left=left, top=top, right=right, bottom=bottom, feathering=feathering
    ).run(ctx)
    assert torch.equal(padded[:, top : top + 13, left : left + 14], image)
    assert padded.shape == (2, top + 13 + bottom, left + 14 + right, 3)
    outside = torch.ones(padded.shape[1:3], dtype=torch.bool)
    outside[top : top + 13, left : left + 14] = False
    assert (padded[:, outside] == 0.5).all()
    assert (mask[:, outside] == 1).all()
    # float32 against Python's doubles
    torch.testing.assert_close(mask, outpaint_mask(13, 14, *borders, feathering))


# -- blending --------------------------------------------------------------------------------------


BLENDS = {  # of 0.4 below and 0.8 above, and of 0.6 below and 0.2 above, by hand
    "normal": (0.8, 0.2),
    "multiply": (0.32, 0.12),
    "screen": (0.88, 0.68),
    "overlay": (0.64, 0.36),
    # 0.4 + 0.6 (√0.4 - 0.4), and 0.6 - 0.6 · 0.6 · 0.4
    "soft_light": (0.4 + 0.6 * (0.4**0.5 - 0.4), 0.456),
    "difference": (0.0, 0.4),
}


def grey(value: float, *size: int) -> Tensor:
    return torch.full((1, *(size or (2, 3)), 3), value)


@pytest.mark.parametrize("mode", BLENDS)
def test_two_greys_blend_as_reckoned_by_hand(ctx: Context, mode: str) -> None:
    for below, above, expected in zip((0.4, 0.6), (0.8, 0.2), BLENDS[mode], strict=True):
        node = ImageBlend.model_validate(
            {"image1": grey(below), "image2": grey(above), "blend_factor": 1, "blend_mode": mode}
        )
        torch.testing.assert_close(node.run(ctx), grey(expected))


@pytest.mark.parametrize("mode", BLENDS)
def test_the_factor_goes_from_the_first_picture_to_the_blend(ctx: Context, mode: str) -> None:
    def blended(factor: float) -> Tensor:
        values = {"image1": noise(1, 4, 4, 3), "image2": noise(1, 4, 4, 3, seed=1)}
        options = {"blend_factor": factor, "blend_mode": mode}
        return ImageBlend.model_validate({**values, **options}).run(ctx)

    assert torch.equal(blended(0), noise(1, 4, 4, 3))
    if mode != "difference":  # whose negative values are cut off after the mixing
        torch.testing.assert_close(blended(0.25), 0.75 * blended(0) + 0.25 * blended(1))


def test_the_second_picture_takes_size_and_number_of_the_first(ctx: Context) -> None:
    blended = ImageBlend(image1=noise(3, 4, 6, 3), image2=grey(0.5, 9, 9), blend_factor=1)
    # bicubic weights sum to 1 up to rounding
    torch.testing.assert_close(blended.run(ctx), grey(0.5, 4, 6).expand(3, -1, -1, -1))


# -- layers ----------------------------------------------------------------------------------------


OPERATORS = {  # opacity, and colour times opacity: white of opacity 1/2 over grey 0.4 of 3/4
    "ADD": (1.0, 0.8),
    "CLEAR": (0.0, 0.0),
    "DARKEN": (0.875, 0.125 + 0.15 + 0.3),
    "DST": (0.75, 0.3),
    "DST_ATOP": (0.5, 0.15 + 0.125),
    "DST_IN": (0.375, 0.15),
    "DST_OUT": (0.375, 0.15),
    "DST_OVER": (0.875, 0.3 + 0.125),
    "LIGHTEN": (0.875, 0.125 + 0.15 + 0.5),
    "MULTIPLY": (0.375, 0.15),
    "OVERLAY": (0.875, 2 * 0.5 * 0.3),
    "SCREEN": (0.875, 0.8 - 0.15),
    "SRC": (0.5, 0.5),
    "SRC_ATOP": (0.75, 0.375 + 0.15),
    "SRC_IN": (0.375, 0.375),
    "SRC_OUT": (0.125, 0.125),
    "SRC_OVER": (0.875, 0.5 + 0.15),
    "XOR": (0.5, 0.125 + 0.15),
}


@pytest.mark.parametrize("mode", OPERATORS)
def test_two_layers_combine_as_reckoned_by_hand(ctx: Context, mode: str) -> None:
    image, mask = PorterDuffImageComposite.model_validate(
        {
            "source": grey(1.0),
            "source_alpha": torch.full((1, 2, 3), 0.5),
            "destination": grey(0.4),
            "destination_alpha": torch.full((1, 2, 3), 0.25),
            "mode": mode,
        }
    ).run(ctx)
    opacity, colour = OPERATORS[mode]
    torch.testing.assert_close(mask, torch.full((1, 2, 3), 1 - opacity))
    torch.testing.assert_close(image, grey(min(1.0, colour / opacity) if opacity else 0.0))


def test_every_operator_is_offered_and_the_first_is_dst() -> None:
    mode = PorterDuffImageComposite.inputs()["mode"]
    assert (mode.choices, mode.default) == (tuple(OPERATORS), "DST")


def test_an_opaque_source_hides_what_is_below_and_sizes_are_the_destinations(ctx: Context) -> None:
    image, mask = PorterDuffImageComposite(
        source=grey(0.7, 5, 5),
        source_alpha=torch.zeros(1, 7, 7),
        destination=noise(2, 4, 6, 3),
        destination_alpha=noise(2, 8, 8),
        mode="SRC_OVER",
    ).run(ctx)
    torch.testing.assert_close(image, grey(0.7, 4, 6))  # as many as the source has
    torch.testing.assert_close(mask, torch.zeros(1, 4, 6))


def test_colours_and_transparency_come_apart_and_together_again(ctx: Context) -> None:
    # 1 - (1 - alpha) is exact for these
    image = (noise(2, 4, 6, 4) * 255).round() / 256
    colours, mask = SplitImageWithAlpha(image=image).run(ctx)
    assert torch.equal(colours, image[..., :3])
    assert torch.equal(mask, 1 - image[..., 3])
    assert torch.equal(JoinImageWithAlpha(image=colours, alpha=mask).run(ctx), image)


def test_an_opaque_picture_is_transparent_nowhere(ctx: Context) -> None:
    assert not SplitImageWithAlpha(image=noise(1, 4, 6, 3)).run(ctx).MASK.any()


def test_a_mask_is_stretched_to_the_picture_and_goes_with_all(ctx: Context) -> None:
    joined = JoinImageWithAlpha(image=noise(3, 4, 6, 3), alpha=torch.full((1, 2, 2), 0.25))
    assert (joined.run(ctx)[..., 3] == 0.75).all()
    assert joined.run(ctx).shape == (3, 4, 6, 4)


def test_ranges_are_comfyuis() -> None:
    with pytest.raises(ValidationError, match="left"):
        ImagePadForOutpaint.model_validate({"image": noise(1, 4, 4, 3), "left": -8})
    pictures = {"image1": noise(1, 4, 4, 3), "image2": noise(1, 4, 4, 3)}
    with pytest.raises(ValidationError, match="blend_factor"):
        ImageBlend.model_validate({**pictures, "blend_factor": 1.01})
