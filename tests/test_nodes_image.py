"""Nodes that load, make, resize and combine pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from laws import left_alone
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from executor import Context, InputError, Node, PathError, PictureError
from executor.settings import Settings
from executor.workspace import Workspace
from nodes.image import (
    EmptyImage,
    ImageBatch,
    ImageCompositeMasked,
    ImageCrop,
    ImageInvert,
    ImagePadForOutpaint,
    ImageScale,
    ImageScaleBy,
    ImageScaleToTotalPixels,
    LoadImage,
    LoadImageMask,
)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    settings = Settings(base_directory=tmp_path, device="cpu", max_picture_pixels=10_000)
    return Workspace(settings).context()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def put(tmp_path: Path, name: str = "x.png", size: tuple[int, int] = (6, 4)) -> np.ndarray:
    """A picture with transparency in the input folder; its levels."""
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)
    return levels


ALL = [
    ImageInvert(image=noise(2, 6, 4, 3)),
    ImageScale(image=noise(2, 6, 4, 3), width=8, height=3, crop="center"),
    ImageScale(image=noise(2, 6, 4, 3), width=0, height=0),
    ImageScaleBy(image=noise(2, 6, 4, 3), scale_by=1.5, upscale_method="lanczos"),
    ImageScaleToTotalPixels(image=noise(1, 6, 4, 3), megapixels=0.01),
    ImageBatch(image1=noise(1, 6, 4, 3), image2=noise(2, 3, 5, 4)),
    ImageCrop(image=noise(1, 6, 4, 3), width=2, height=2, x=1, y=1),
    ImageCompositeMasked(
        destination=noise(2, 6, 4, 3), source=noise(1, 3, 3, 4), x=2, y=1, mask=noise(1, 5, 5)
    ),
    ImagePadForOutpaint(image=noise(2, 9, 9, 3), left=8, feathering=3),
]


@pytest.mark.parametrize("node", ALL, ids=lambda node: type(node).__name__)
def test_no_node_writes_to_its_inputs(node: Node, ctx: Context) -> None:
    with left_alone(*(getattr(node, name) for name in node.inputs())):
        node.run(ctx)


@pytest.mark.parametrize("node", ALL, ids=lambda node: type(node).__name__)
def test_the_same_inputs_give_the_same_outputs(node: Node, ctx: Context) -> None:
    first, second = node.run(ctx), node.run(ctx)
    if isinstance(first, Tensor):
        first, second = [first], [second]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# -- loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("input/x.png", "x.png"),
        ("input/sub/dir/x.png", "sub/dir/x.png"),
        ("input/clipspace/x.png", "clipspace/x.png [input]"),
        ("output/x.png", "x.png [output]"),
        ("temp/sub/x.png", "sub/x.png [temp]"),
    ],
)
def test_a_picture_is_loaded_with_its_transparency_as_the_mask(
    tmp_path: Path, ctx: Context, stored: str, name: str
) -> None:
    levels = torch.from_numpy(put(tmp_path, stored)) / 255
    image, mask = LoadImage(image=name).run(ctx)
    assert torch.equal(image, levels[None, ..., :3])
    assert torch.equal(mask, 1 - levels[None, ..., 3])


@pytest.mark.parametrize("channel", ["red", "green", "blue", "alpha"])
def test_one_channel_is_loaded_as_a_mask(tmp_path: Path, ctx: Context, channel: str) -> None:
    levels = torch.from_numpy(put(tmp_path, "input/x.png")) / 255
    mask = LoadImageMask.model_validate({"image": "x.png", "channel": channel}).run(ctx)
    index = ("red", "green", "blue", "alpha").index(channel)
    expected = levels[None, ..., index]
    assert torch.equal(mask, 1 - expected if channel == "alpha" else expected)


def test_the_alpha_of_an_opaque_picture_masks_nothing(tmp_path: Path, ctx: Context) -> None:
    (tmp_path / "input").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "input" / "x.png")
    mask = LoadImageMask(image="x.png").run(ctx)
    assert mask.shape == (1, 4, 6)
    assert not mask.any()


def test_pictures_that_cannot_be_loaded_are_told(tmp_path: Path, ctx: Context) -> None:
    put(tmp_path, "input/large.png", (101, 100))
    with pytest.raises(PictureError, match="101×100 pixels; 10,000"):
        LoadImage(image="large.png").run(ctx)
    with pytest.raises(PathError, match=r"did you mean 'large\.png'"):
        LoadImage(image="lrge.png").run(ctx)
    with pytest.raises(PathError):
        LoadImageMask(image="../x.png").run(ctx)


# -- making and resizing ---------------------------------------------------------------------------


def test_an_empty_image_has_its_colour(ctx: Context) -> None:
    image = EmptyImage(width=3, height=2, batch_size=4, color=0xFF8001).run(ctx)
    assert image.shape == (4, 2, 3, 3)
    assert (image.view(-1, 3) * 255 == torch.tensor([255.0, 128.0, 1.0])).all()
    assert not EmptyImage(width=1, height=1).run(ctx).any()


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


def test_ranges_are_comfyuis() -> None:
    for node, name, value in (
        (ImageScale, "width", 16385),
        (ImageScale, "upscale_method", "bislerp"),
        (ImageScaleBy, "scale_by", 8.01),
        (EmptyImage, "width", 0),
        (EmptyImage, "color", 0x1000000),
        (ImageScaleToTotalPixels, "megapixels", 16.1),
        (ImagePadForOutpaint, "left", -8),
    ):
        with pytest.raises(ValidationError, match=name):
            node.model_validate({"image": noise(1, 4, 4, 3), name: value})


# -- combining -------------------------------------------------------------------------------------


def test_inverting_twice_gives_the_picture_back(ctx: Context) -> None:
    image = (noise(1, 4, 6, 3) * 255).round() / 256  # exact in float32, so that 1 - x is
    once = ImageInvert(image=image).run(ctx)
    assert torch.equal(once, 1 - image)
    assert torch.equal(ImageInvert(image=once).run(ctx), image)


def test_a_batch_takes_the_size_of_its_first(ctx: Context) -> None:
    first, second = noise(2, 4, 4, 3), noise(1, 4, 8, 3)
    batch = ImageBatch(image1=first, image2=second).run(ctx)
    assert torch.equal(batch, torch.cat([first, second[:, :, 2:6]]))


def test_a_batch_with_transparency_is_opaque_where_there_was_none(ctx: Context) -> None:
    first, second = noise(1, 4, 4, 3), noise(1, 4, 4, 4)
    batch = ImageBatch(image1=first, image2=second).run(ctx)
    assert batch.shape == (2, 4, 4, 4)
    assert (batch[0, ..., 3] == 1).all()
    assert torch.equal(batch[1], second[0])


def test_a_crop_is_cut_at_the_border(ctx: Context) -> None:
    image = noise(1, 4, 6, 3)
    crop = ImageCrop(image=image, x=2, y=1, width=3, height=9).run(ctx)
    assert torch.equal(crop, image[:, 1:, 2:5])
    beyond = ImageCrop(image=image, x=99, y=99, width=3, height=3).run(ctx)
    assert torch.equal(beyond, image[:, 3:, 5:])


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
