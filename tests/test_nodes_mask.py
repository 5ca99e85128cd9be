"""Nodes that make, change and combine masks."""

from typing import Any

import pytest
import torch
from laws import left_alone, noise
from pydantic import ValidationError
from scipy import ndimage
from torch import Tensor

from executor import Context, InputError, Node
from nodes.mask import (
    CropMask,
    FeatherMask,
    GrowMask,
    ImageColorToMask,
    ImageToMask,
    InvertMask,
    Mask,
    MaskComposite,
    MaskToImage,
    SolidMask,
    ThresholdMask,
)


def levels(*shape: int, seed: int = 0) -> Tensor:
    """Values that are exact in float32, so that 1 - x is too."""
    return (noise(*shape, seed=seed) * 255).round() / 256


ALL = [
    Mask(image=noise(2, 6, 5, 4), source="alpha", invert=True, grow=1, feather=1),
    Mask(mask=noise(2, 6, 5), source="mask"),
    Mask(image=noise(2, 6, 5, 3), source="rectangle", x=1, width=2),
    MaskToImage(mask=noise(2, 6, 5)),
    ImageToMask(image=noise(2, 6, 5, 3), channel="blue"),
    InvertMask(mask=noise(2, 6, 5)),
    GrowMask(mask=noise(2, 6, 5), expand=2),
    GrowMask(mask=noise(2, 6, 5), expand=0),
    GrowMask(mask=noise(2, 6, 5), expand=-2, tapered_corners=False),
    FeatherMask(mask=noise(2, 6, 5), left=2, bottom=9),
    MaskComposite(destination=noise(2, 6, 5), source=noise(1, 3, 3), x=3, operation="xor"),
    ThresholdMask(mask=noise(2, 6, 5)),
    CropMask(mask=noise(2, 6, 5), x=1, width=2),
    ImageColorToMask(image=noise(2, 6, 5, 3)),
]


@pytest.mark.parametrize("node", ALL, ids=lambda node: type(node).__name__)
def test_no_node_writes_to_its_inputs_or_hands_them_on_changed(node: Node, ctx: Context) -> None:
    inputs = [getattr(node, name) for name in node.inputs()]
    with left_alone(*inputs):
        made = node.run(ctx)
    assert made.dtype == torch.float32
    assert made.min() >= 0
    assert made.max() <= 1


# -- ComfyUI's nodes -------------------------------------------------------------------------------


def test_inverting_twice_gives_the_mask_back(ctx: Context) -> None:
    mask = levels(2, 4, 6)
    once = InvertMask(mask=mask).run(ctx)
    assert torch.equal(once, 1 - mask)
    assert torch.equal(InvertMask(mask=once).run(ctx), mask)


@pytest.mark.parametrize("channel", ["red", "green", "blue"])
def test_a_mask_survives_the_way_through_a_picture(ctx: Context, channel: Any) -> None:
    mask = noise(2, 4, 6)
    image = MaskToImage(mask=mask).run(ctx)
    assert image.shape == (2, 4, 6, 3)
    assert torch.equal(ImageToMask(image=image, channel=channel).run(ctx), mask)


def test_channels_are_taken_as_they_are(ctx: Context) -> None:
    image = noise(2, 4, 6, 4)
    for index, channel in enumerate(("red", "green", "blue", "alpha")):
        mask = ImageToMask.model_validate({"image": image, "channel": channel}).run(ctx)
        assert torch.equal(mask, image[..., index])


def test_a_channel_that_is_not_there_is_told_with_what_would_do(ctx: Context) -> None:
    for node in (
        ImageToMask(image=noise(1, 4, 4, 3), channel="alpha"),
        Mask(image=noise(1, 4, 4, 3), source="alpha"),
    ):
        with pytest.raises(InputError, match="3 channels and so no alpha; LoadImage gives"):
            node.run(ctx)


def test_a_solid_mask_has_one_value(ctx: Context) -> None:
    assert torch.equal(
        SolidMask(value=0.25, width=3, height=2).run(ctx), torch.full((1, 2, 3), 0.25)
    )


@pytest.mark.parametrize("tapered", [True, False])
@pytest.mark.parametrize("expand", [-4, -1, 0, 1, 2, 5, 100])
def test_growing_is_scipys_grey_dilation_and_erosion(
    ctx: Context, expand: int, tapered: bool
) -> None:
    masks = noise(2, 9, 11) ** 8  # mostly dark, some bright
    grown = GrowMask(mask=masks, expand=expand, tapered_corners=tapered).run(ctx)
    kernel = [[not tapered, 1, not tapered], [1, 1, 1], [not tapered, 1, not tapered]]
    operation = ndimage.grey_erosion if expand < 0 else ndimage.grey_dilation
    for mask, found in zip(masks, grown, strict=True):
        expected = mask.numpy()
        for _ in range(abs(expand)):
            expected = operation(expected, footprint=kernel)
        assert torch.equal(found, torch.from_numpy(expected))


def test_shrinking_is_growing_what_is_not_masked(ctx: Context) -> None:
    mask = levels(1, 8, 8)
    shrunk = GrowMask(mask=mask, expand=-3).run(ctx)
    assert torch.equal(shrunk, 1 - GrowMask(mask=1 - mask, expand=3).run(ctx))


def test_a_grown_point_is_a_diamond_or_a_square(ctx: Context) -> None:
    point = torch.zeros(1, 9, 9)
    point[0, 4, 4] = 1
    y, x = torch.meshgrid(torch.arange(-4, 5), torch.arange(-4, 5), indexing="ij")
    diamond = GrowMask(mask=point, expand=3).run(ctx)
    square = GrowMask(mask=point, expand=3, tapered_corners=False).run(ctx)
    assert torch.equal(diamond[0] > 0, abs(x) + abs(y) <= 3)
    assert torch.equal(square[0] > 0, torch.maximum(abs(x), abs(y)) <= 3)


def feathered(mask: Tensor, left: int, top: int, right: int, bottom: int) -> Tensor:
    """ComfyUI's rule: the far ramps count from -0, which is the first column or row."""
    result = mask.clone()
    height, width = mask.shape[1:]
    for size, near, far, dim in ((width, left, right, 2), (height, top, bottom, 1)):
        for ramp, sign in ((min(near, size), 1), (min(far, size), -1)):
            for index in range(ramp):
                result.select(dim, sign * index).mul_((index + 1) / ramp)
    return result


@pytest.mark.parametrize(
    "sides", [(3, 0, 0, 0), (0, 2, 0, 0), (0, 0, 4, 0), (0, 0, 0, 3), (1, 2, 3, 4), (99,) * 4]
)
def test_feathering_fades_towards_the_borders_as_in_comfyui(
    ctx: Context, sides: tuple[int, int, int, int]
) -> None:
    mask = noise(2, 7, 9)
    left, top, right, bottom = sides
    node = FeatherMask(mask=mask, left=left, top=top, right=right, bottom=bottom)
    # The same factors, multiplied in another order.
    torch.testing.assert_close(node.run(ctx), feathered(mask, *sides))


def test_a_ramp_rises_evenly_from_the_left(ctx: Context) -> None:
    mask = FeatherMask(mask=torch.ones(1, 2, 6), left=4).run(ctx)
    assert mask[0, 0].tolist() == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("multiply", [0.0, 0.0, 0.0, 1.0, 0.12]),
        ("add", [0.0, 1.0, 1.0, 1.0, 0.8]),
        ("subtract", [0.0, 0.0, 1.0, 0.0, 0.4]),
        ("and", [0.0, 0.0, 0.0, 1.0, 0.0]),
        ("or", [0.0, 1.0, 1.0, 1.0, 1.0]),
        ("xor", [0.0, 1.0, 1.0, 0.0, 1.0]),
    ],
)
def test_masks_are_combined(ctx: Context, operation: Any, expected: list[float]) -> None:
    destination = torch.tensor([[[0.0, 0.0, 1.0, 1.0, 0.6]]])
    source = torch.tensor([[[0.0, 1.0, 0.0, 1.0, 0.2]]])
    node = MaskComposite(destination=destination, source=source, operation=operation)
    torch.testing.assert_close(node.run(ctx)[0, 0], torch.tensor(expected))


def test_a_mask_is_combined_only_where_it_lies(ctx: Context) -> None:
    destination, source = torch.zeros(2, 4, 6), torch.ones(1, 3, 3)
    node = MaskComposite(destination=destination, source=source, x=4, y=2, operation="add")
    expected = torch.zeros(2, 4, 6)
    expected[:, 2:, 4:] = 1
    assert torch.equal(node.run(ctx), expected)
    outside = MaskComposite(destination=destination, source=source, x=9, y=9, operation="add")
    assert not outside.run(ctx).any()


def test_a_crop_is_cut_at_the_border_and_beyond_it_is_nothing(ctx: Context) -> None:
    mask = noise(2, 4, 6)
    assert torch.equal(CropMask(mask=mask, x=4, y=1, width=3, height=2).run(ctx), mask[:, 1:3, 4:])
    with pytest.raises(InputError, match=r"\(0, 4\) lies outside of the 6×4 mask"):
        CropMask(mask=mask, y=4).run(ctx)


def test_just_one_colour_is_masked(ctx: Context) -> None:
    image = (torch.tensor([[[[255, 128, 1], [255, 128, 2], [254, 128, 1]]]]) + 0.4) / 255
    assert ImageColorToMask(image=image, color=0xFF8001).run(ctx).tolist() == [[[1, 0, 0]]]
    assert not ImageColorToMask(image=image).run(ctx).any()


def test_a_threshold_leaves_nothing_between(ctx: Context) -> None:
    mask = torch.tensor([[[0.0, 0.5, 0.51, 1.0]]])
    assert ThresholdMask(mask=mask).run(ctx).tolist() == [[[0, 0, 1, 1]]]


# -- Mask ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["red", "green", "blue"])
def test_a_mask_from_a_colour(ctx: Context, source: Any) -> None:
    image = noise(2, 4, 6, 3)
    mask = Mask(image=image, source=source).run(ctx)
    assert torch.equal(mask, image[..., ("red", "green", "blue").index(source)])


def test_a_mask_from_alpha_is_1_where_the_picture_is_transparent(ctx: Context) -> None:
    image = noise(2, 4, 6, 4)
    assert torch.equal(Mask(image=image, source="alpha").run(ctx), 1 - image[..., 3])


def test_a_mask_from_luminance_sees_green_brightest(ctx: Context) -> None:
    primaries = torch.eye(3).view(1, 1, 3, 3)
    red, green, blue = Mask(image=primaries).run(ctx).flatten().tolist()
    assert green > red > blue > 0
    white = Mask(image=torch.ones(1, 2, 2, 3)).run(ctx)
    torch.testing.assert_close(white, torch.ones(1, 2, 2))


def test_a_mask_of_a_rectangle_has_the_size_of_what_is_linked(ctx: Context) -> None:
    box = {"source": "rectangle", "x": 1, "y": 2, "width": 3, "height": 9, "value": 0.5}
    expected = torch.zeros(1, 6, 8)
    expected[:, 2:, 1:4] = 0.5
    for like in (
        {"image": noise(2, 6, 8, 3)},
        {"mask": noise(2, 6, 8)},
        {"canvas_width": 8, "canvas_height": 6},
    ):
        assert torch.equal(Mask.model_validate({**box, **like}).run(ctx), expected)


def test_a_solid_mask_of_a_pictures_size(ctx: Context) -> None:
    mask = Mask(image=noise(2, 6, 8, 3), source="solid", value=0.25).run(ctx)
    assert torch.equal(mask, torch.full((1, 6, 8), 0.25))
    assert Mask(source="solid").run(ctx).shape == (1, 512, 512)


def test_a_mask_is_refined_as_the_single_nodes_would(ctx: Context) -> None:
    mask = noise(1, 9, 9)
    node = Mask(mask=mask, source="mask", invert=True, grow=2, tapered_corners=False)
    inverted = InvertMask(mask=mask).run(ctx)
    assert torch.equal(
        node.run(ctx), GrowMask(mask=inverted, expand=2, tapered_corners=False).run(ctx)
    )
    assert torch.equal(Mask(mask=mask, source="mask").run(ctx), mask)


def test_a_feathered_edge_falls_evenly_and_keeps_its_middle(ctx: Context) -> None:
    node = Mask(
        source="rectangle", canvas_width=64, canvas_height=64, width=32, height=64, feather=8
    )
    row = node.run(ctx)[0, 32]
    assert (row.diff() <= 1e-6).all()  # but for float32's rounding, it only falls
    assert row[31].item() + row[32].item() == pytest.approx(1, abs=1e-5)  # symmetric about the edge
    assert row[:16].min() > 0.999  # two feathers away, four standard deviations: untouched
    assert row[48:].max() < 0.001
    assert 0.9 < row[31 - 8] < 1  # one feather away


def test_feathering_a_solid_mask_changes_nothing(ctx: Context) -> None:
    mask = Mask(source="solid", value=0.5, canvas_width=20, canvas_height=9, feather=50).run(ctx)
    torch.testing.assert_close(mask, torch.full((1, 9, 20), 0.5))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "source 'luminance' needs a link to image"),
        ({"source": "red"}, "source 'red' needs a link to image"),
        ({"source": "mask"}, "source 'mask' needs a link to mask"),
        ({"source": "rectangle", "x": 512}, "lies outside of the 512×512 mask"),
    ],
)
def test_a_mask_of_nothing_is_refused(ctx: Context, inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Mask.model_validate(inputs).run(ctx)


def test_ranges_are_comfyuis() -> None:
    for node, name, value in (
        (SolidMask, "value", 1.01),
        (SolidMask, "height", 0),
        (GrowMask, "expand", -16385),
        (FeatherMask, "left", -1),
        (MaskComposite, "operation", "nand"),
        (ThresholdMask, "value", -0.1),
    ):
        with pytest.raises(ValidationError, match=name):
            node.model_validate({name: value})
