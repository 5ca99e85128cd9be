"""Latents: made, resized, cut, turned, kept."""

import json
from pathlib import Path

import pytest
import torch
from laws import check_pure, latent, left_alone, noise
from safetensors.torch import load, save_file

from executor import Context, FileError, Latent, Node
from executor.settings import Settings
from executor.workspace import Workspace
from nodes.latent import (
    EmptyLatent,
    LatentCrop,
    LatentFlip,
    LatentRotate,
    LatentUpscale,
    LatentUpscaleBy,
    LoadLatent,
    SaveLatent,
    SetLatentNoiseMask,
)


@pytest.mark.parametrize(
    "node",
    [
        SetLatentNoiseMask(samples=latent(masks=2), mask=noise(1, 8, 8)),
        LatentUpscale(samples=latent(), width=96, height=96, crop="center"),
        LatentUpscaleBy(samples=latent(), upscale_method="bislerp"),
        LatentCrop(samples=latent(), width=64, height=64),
        LatentFlip(samples=latent()),
        LatentRotate(samples=latent(), rotation="90 degrees"),
    ],
    ids=lambda node: type(node).__name__,
)
def test_inputs_are_left_alone_and_give_the_same_again(node: Node, ctx: Context) -> None:
    check_pure(node, ctx)


def test_an_empty_latent_is_an_eighth_of_the_picture(ctx) -> None:
    made = EmptyLatent(width=128, height=72, batch_size=3).run(ctx)
    assert made.samples.shape == (3, 4, 9, 16)
    assert not made.samples.any()


def test_a_noise_mask_is_set_and_nothing_else_changes(ctx) -> None:
    before, mask = latent(index=(3, 4)), noise(1, 64, 48)
    after = SetLatentNoiseMask(samples=before, mask=mask).run(ctx)
    assert after.noise_mask is mask
    assert after.samples is before.samples
    assert after.batch_index == (3, 4)


# -- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (96, 128, (16, 12)),
        (0, 0, (8, 6)),
        (0, 128, (16, 12)),  # 48 × 64 in proportion
        (96, 0, (16, 12)),
        (8, 128, (16, 8)),  # 64 is the least
    ],
)
def test_a_side_of_zero_follows_from_the_other(ctx, width, height, expected) -> None:
    scaled = LatentUpscale(samples=latent(masks=1), width=width, height=height).run(ctx)
    assert tuple(scaled.samples.shape[-2:]) == expected
    assert scaled.noise_mask is not None


def test_doubling_by_nearest_repeats_each_latent_pixel(ctx) -> None:
    before = latent()
    scaled = LatentUpscaleBy(samples=before, scale_by=2).run(ctx)
    expected = before.samples.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(scaled.samples, expected)


def test_shrinking_leaves_at_least_one_latent_pixel(ctx) -> None:
    shrunk = LatentUpscaleBy(samples=latent(), scale_by=0.01).run(ctx)
    assert shrunk.samples.shape == (2, 4, 1, 1)


# -- cutting and turning -----------------------------------------------------------------------


def test_a_crop_is_given_in_pixels_of_the_picture(ctx: Context) -> None:
    before = Latent(noise(2, 4, 20, 30), batch_index=(5, 6))
    crop = LatentCrop(samples=before, width=64, height=72, x=16, y=24).run(ctx)
    assert torch.equal(crop.samples, before.samples[:, :, 3:12, 2:10])
    assert crop.batch_index == (5, 6)


def test_a_crop_beyond_the_border_leaves_eight_latent_pixels_each_way(ctx: Context) -> None:
    before = Latent(noise(1, 4, 20, 30))
    crop = LatentCrop(samples=before, width=128, height=128, x=8000, y=8000).run(ctx)
    assert torch.equal(crop.samples, before.samples[:, :, 12:, 22:])
    small = LatentCrop(samples=latent(1), x=8000, y=8000).run(ctx)
    assert torch.equal(small.samples, latent(1).samples)


def test_turning_moves_the_upper_left_corner_clockwise(ctx: Context) -> None:
    samples = latent().samples
    corners = {"none": (0, 0), "90 degrees": (0, -1), "180 degrees": (-1, -1)}
    for rotation, corner in {**corners, "270 degrees": (-1, 0)}.items():
        node = LatentRotate.model_validate({"samples": latent(), "rotation": rotation})
        assert torch.equal(node.run(ctx).samples[:, :, *corner], samples[:, :, 0, 0])


def test_flipping_twice_gives_the_latent_back(ctx: Context) -> None:
    def flipped(before: Latent, method: str) -> Latent:
        return LatentFlip.model_validate({"samples": before, "flip_method": method}).run(ctx)

    for method, side in (("x-axis: vertically", 2), ("y-axis: horizontally", 3)):
        once = flipped(latent(), method)
        assert torch.equal(once.samples.select(side, 0), latent().samples.select(side, -1))
        assert torch.equal(flipped(once, method).samples, latent().samples)


# -- files -------------------------------------------------------------------------------------


def test_a_saved_latent_loads_as_it_was(tmp_path: Path) -> None:
    workspace = Workspace(Settings(base_directory=tmp_path, device="cpu"))
    ctx = workspace.context({"1": {"class_type": "EmptyLatent"}}, {"workflow": {"nodes": []}})
    before = latent(2)
    with left_alone(before):
        SaveLatent(samples=before, filename_prefix="kept/one").run(ctx)
    (saved,) = ctx.files
    assert (saved.subfolder, saved.filename, saved.kind) == ("kept", "one_00001_.latent", "latents")
    after = LoadLatent(latent="kept/one_00001_.latent [output]").run(ctx)
    assert torch.equal(after.samples, before.samples)

    content = (tmp_path / "output" / "kept" / "one_00001_.latent").read_bytes()
    assert set(load(content)) == {"latent_tensor", "latent_format_version_0"}
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    texts = {name: json.loads(text) for name, text in header["__metadata__"].items()}
    assert texts == {"prompt": {"1": {"class_type": "EmptyLatent"}}, "workflow": {"nodes": []}}


def test_a_latent_from_before_the_marker_is_scaled_back(ctx, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    before = latent(1).samples
    save_file({"latent_tensor": before * 0.18215}, tmp_path / "input" / "old.latent")
    # The product of a number and its reciprocal, both rounded to float32.
    torch.testing.assert_close(LoadLatent(latent="old.latent").run(ctx).samples, before)


def test_files_without_latents_are_refused_by_name(ctx, tmp_path: Path) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "text.latent").write_text("hello")
    save_file({"weights": torch.ones(2)}, folder / "weights.latent")
    save_file({"latent_tensor": torch.ones(2, 3)}, folder / "flat.latent")
    for name, words in (
        ("text", r"text\.latent: not a latent file"),
        ("weights", r"weights\.latent: .* has weights"),
        ("flat", r"flat\.latent: .* has shape \(2, 3\)"),
    ):
        with pytest.raises(FileError, match=words):
            LoadLatent(latent=f"{name}.latent").run(ctx)


def test_input_names_order_and_defaults_are_comfyuis() -> None:
    assert list(LatentUpscale.inputs()) == [
        *("samples", "upscale_method", "width", "height", "crop")
    ]
    assert list(LatentCrop.inputs()) == ["samples", "width", "height", "x", "y"]
    assert (LatentCrop.inputs()["width"].at_least, LatentCrop.inputs()["x"].step) == (64, 8)
    sides = EmptyLatent.inputs()
    assert [(i.default, i.at_least, i.at_most, i.step) for i in sides.values()] == [
        (512, 16, 16384, 8),
        (512, 16, 16384, 8),
        (1, 1, 4096, None),
    ]
