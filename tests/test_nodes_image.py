"""Nodes that load, make, cut and turn pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from laws import check_pure, noise
from PIL import Image
from pydantic import ValidationError

from executor import Context, Node, PathError, PictureError
from executor.settings import Settings
from executor.workspace import Workspace
from nodes.image import (
    EmptyImage,
    GetImageSize,
    ImageCrop,
    ImageFlip,
    ImageInvert,
    ImageRotate,
    LoadImage,
    LoadImageMask,
)


def put(tmp_path: Path, name: str = "x.png", size: tuple[int, int] = (6, 4)) -> np.ndarray:
    """A picture with transparency in the input folder; its levels."""
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)
    return levels


@pytest.mark.parametrize(
    "node",
    [
        ImageInvert(image=noise(2, 6, 4, 3)),
        ImageCrop(image=noise(1, 6, 4, 3), width=2, height=2, x=1, y=1),
        ImageFlip(image=noise(1, 6, 4, 3)),
        ImageRotate(image=noise(1, 6, 4, 3), rotation="90 degrees"),
    ],
    ids=lambda node: type(node).__name__,
)
def test_inputs_are_left_alone_and_give_the_same_again(node: Node, ctx: Context) -> None:
    check_pure(node, ctx)


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


def test_pictures_that_cannot_be_loaded_are_told(tmp_path: Path) -> None:
    settings = Settings(base_directory=tmp_path, device="cpu", max_picture_pixels=10_000)
    ctx = Workspace(settings).context()
    put(tmp_path, "input/large.png", (101, 100))
    with pytest.raises(PictureError, match="101×100 pixels; 10,000"):
        LoadImage(image="large.png").run(ctx)
    with pytest.raises(PathError, match=r"did you mean 'large\.png'"):
        LoadImage(image="lrge.png").run(ctx)
    with pytest.raises(PathError):
        LoadImageMask(image="../x.png").run(ctx)


def test_an_empty_image_has_its_colour(ctx: Context) -> None:
    image = EmptyImage(width=3, height=2, batch_size=4, color=0xFF8001).run(ctx)
    assert image.shape == (4, 2, 3, 3)
    assert (image.view(-1, 3) * 255 == torch.tensor([255.0, 128.0, 1.0])).all()
    assert not EmptyImage(width=1, height=1).run(ctx).any()


def test_inverting_twice_gives_the_picture_back(ctx: Context) -> None:
    image = (noise(1, 4, 6, 3) * 255).round() / 256  # exact in float32, so that 1 - x is
    once = ImageInvert(image=image).run(ctx)
    assert torch.equal(once, 1 - image)
    assert torch.equal(ImageInvert(image=once).run(ctx), image)


def test_a_crop_is_cut_at_the_border(ctx: Context) -> None:
    image = noise(1, 4, 6, 3)
    crop = ImageCrop(image=image, x=2, y=1, width=3, height=9).run(ctx)
    assert torch.equal(crop, image[:, 1:, 2:5])
    beyond = ImageCrop(image=image, x=99, y=99, width=3, height=3).run(ctx)
    assert torch.equal(beyond, image[:, 3:, 5:])


def test_turning_moves_the_upper_left_corner_clockwise(ctx: Context) -> None:
    image = noise(2, 4, 6, 3)
    corners = {"none": (0, 0), "90 degrees": (0, -1), "180 degrees": (-1, -1)}
    for rotation, corner in {**corners, "270 degrees": (-1, 0)}.items():
        turned = ImageRotate.model_validate({"image": image, "rotation": rotation}).run(ctx)
        assert torch.equal(turned[:, *corner], image[:, 0, 0])


def test_four_quarter_turns_and_two_flips_give_the_picture_back(ctx: Context) -> None:
    image = turned = noise(1, 4, 6, 3)
    for _ in range(4):
        turned = ImageRotate(image=turned, rotation="90 degrees").run(ctx)
    assert torch.equal(turned, image)
    for method in ("x-axis: vertically", "y-axis: horizontally"):
        once = ImageFlip(image=image, flip_method=method).run(ctx)
        assert torch.equal(ImageFlip(image=once, flip_method=method).run(ctx), image)


def test_flipping_swaps_top_and_bottom_or_left_and_right(ctx: Context) -> None:
    image = noise(1, 4, 6, 3)
    assert torch.equal(ImageFlip(image=image).run(ctx)[0, 0], image[0, -1])
    across = ImageFlip(image=image, flip_method="y-axis: horizontally").run(ctx)
    assert torch.equal(across[0, :, 0], image[0, :, -1])


def test_a_size_is_width_height_and_number(ctx: Context) -> None:
    assert GetImageSize(image=noise(2, 4, 6, 3)).run(ctx) == (6, 4, 2)
    assert [output.name for output in GetImageSize.outputs()] == ["width", "height", "batch_size"]


def test_ranges_are_comfyuis() -> None:
    for node, name, value in ((EmptyImage, "width", 0), (EmptyImage, "color", 0x1000000)):
        with pytest.raises(ValidationError, match=name):
            node.model_validate({name: value})
