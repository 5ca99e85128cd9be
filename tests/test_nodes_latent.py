"""Latents: made, encoded, decoded, cut, combined, kept."""

import json
from pathlib import Path

import pytest
import torch
from laws import left_alone
from safetensors.torch import load, save_file

from executor import Context, FileError, InputError, Latent
from executor.settings import Settings
from executor.workspace import Workspace
from nodes.latent import (
    EmptyLatent,
    LatentComposite,
    LatentFromBatch,
    LatentUpscale,
    LatentUpscaleBy,
    LoadLatent,
    RepeatLatentBatch,
    SaveLatent,
    SetLatentNoiseMask,
    VAEDecode,
    VAEEncode,
    VAEEncodeForInpaint,
)


class Blocks:
    """An autoencoder that can be reckoned by hand: a latent pixel is the mean of 8 × 8 pixels."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        large = samples.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return large[:, :3].movedim(1, -1)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Workspace(Settings(base_directory=tmp_path, device="cpu")).context()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def latent(
    batch: int = 2, *, seed: int = 0, masks: int = 0, index: tuple[int, ...] | None = None
) -> Latent:
    return Latent(
        noise(batch, 4, 8, 6, seed=seed),
        noise(masks, 64, 48, seed=seed + 1) if masks else None,
        index,
    )


@pytest.mark.parametrize(
    "node",
    [
        VAEEncode(pixels=noise(1, 17, 23, 3), vae=Blocks()),
        VAEEncodeForInpaint(
            pixels=noise(2, 24, 32, 3), vae=Blocks(), mask=noise(1, 24, 32), grow_mask_by=5
        ),
        VAEDecode(samples=latent(), vae=Blocks()),
        SetLatentNoiseMask(samples=latent(masks=2), mask=noise(1, 8, 8)),
        LatentUpscale(samples=latent(), width=96, height=96, crop="center"),
        LatentUpscaleBy(samples=latent(), upscale_method="bislerp"),
        LatentFromBatch(samples=latent(3, masks=2), batch_index=1, length=2),
        RepeatLatentBatch(samples=latent(3, masks=2, index=(4, 5, 6)), amount=2),
        LatentComposite(samples_to=latent(), samples_from=latent(seed=9), x=16, y=8, feather=16),
        SaveLatent(samples=latent()),
    ],
    ids=lambda node: type(node).__name__,
)
def test_no_latent_node_writes_to_its_inputs(node, ctx) -> None:
    with left_alone(*node.__dict__.values()):
        node.run(ctx)


def test_an_empty_latent_is_an_eighth_of_the_picture(ctx) -> None:
    made = EmptyLatent(width=128, height=72, batch_size=3).run(ctx)
    assert made.samples.shape == (3, 4, 9, 16)
    assert not made.samples.any()


def test_encoding_crops_to_the_middle_and_leaves_alpha_out(ctx) -> None:
    pixels = noise(1, 19, 26, 4)
    encoded = VAEEncode(pixels=pixels, vae=Blocks()).run(ctx)
    torch.testing.assert_close(encoded.samples, Blocks().encode(pixels[:, 1:17, 1:25, :3]))


def test_decoding_gives_the_picture_of_the_latent(ctx) -> None:
    pixels = noise(1, 2, 3, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    encoded = VAEEncode(pixels=pixels, vae=Blocks()).run(ctx)
    torch.testing.assert_close(VAEDecode(samples=encoded, vae=Blocks()).run(ctx), pixels)


# -- inpainting --------------------------------------------------------------------------------


def test_what_is_inpainted_is_encoded_as_mid_grey_and_the_rest_as_it_is(ctx) -> None:
    pixels, mask = noise(1, 16, 24, 3), torch.zeros(1, 16, 24)
    mask[:, :8, 8:16] = 1
    encoded = VAEEncodeForInpaint(pixels=pixels, vae=Blocks(), mask=mask, grow_mask_by=0).run(ctx)
    expected = Blocks().encode(pixels)
    expected[:, :, 0, 1] = 0.5
    torch.testing.assert_close(encoded.samples, expected)
    assert encoded.noise_mask is not None
    assert torch.equal(encoded.noise_mask, mask)


def test_soft_masks_are_rounded_before_they_grow(ctx) -> None:
    mask = torch.full((1, 16, 16), 0.4)
    mask[:, 4, 4] = 0.6
    encoded = VAEEncodeForInpaint(
        pixels=noise(1, 16, 16, 3), vae=Blocks(), mask=mask, grow_mask_by=1
    ).run(ctx)
    assert encoded.noise_mask is not None
    assert encoded.noise_mask.nonzero().tolist() == [[0, 4, 4]]


@pytest.mark.parametrize("grow", range(1, 8))
def test_a_mask_grows_by_a_square_around_each_pixel(ctx, grow) -> None:
    mask = torch.zeros(1, 24, 32)
    mask[0, 10, 11] = mask[0, 0, 31] = 1
    encoded = VAEEncodeForInpaint(
        pixels=noise(1, 24, 32, 3), vae=Blocks(), mask=mask, grow_mask_by=grow
    ).run(ctx)
    expected = torch.zeros(1, 24, 32)
    # ComfyUI's kernel of an even side, padded by half of it rounded up, reaches further down-right.
    back, on = (grow - 1) // 2, grow // 2
    for y, x in ((10, 11), (0, 31)):
        expected[0, max(0, y - back) : y + on + 1, max(0, x - back) : x + on + 1] = 1
    assert encoded.noise_mask is not None
    assert torch.equal(encoded.noise_mask, expected)


def test_the_mask_is_stretched_and_cut_like_the_picture(ctx) -> None:
    mask = torch.zeros(1, 4, 4)
    mask[0, :2] = 1  # the upper half
    encoded = VAEEncodeForInpaint(
        pixels=noise(2, 18, 16, 3), vae=Blocks(), mask=mask, grow_mask_by=0
    ).run(ctx)
    assert encoded.samples.shape == (2, 3, 2, 2)
    assert encoded.noise_mask is not None
    assert encoded.noise_mask.shape == (1, 16, 16)
    assert encoded.noise_mask[0, :, 0].tolist() == [1.0] * 8 + [0.0] * 8


def test_masks_that_fit_no_pictures_are_refused(ctx) -> None:
    node = VAEEncodeForInpaint(pixels=noise(2, 16, 16, 3), vae=Blocks(), mask=noise(3, 16, 16))
    with pytest.raises(InputError, match="3 masks for 2 pictures"):
        node.run(ctx)


def test_a_noise_mask_is_set_and_nothing_else_changes(ctx) -> None:
    before, mask = latent(index=(3, 4)), noise(1, 64, 48)
    after = SetLatentNoiseMask(samples=before, mask=mask).run(ctx)
    assert after.noise_mask is mask
    assert after.samples is before.samples
    assert after.batch_index == (3, 4)


# -- batches -----------------------------------------------------------------------------------


def test_every_picture_of_a_batch_remembers_the_place_of_its_noise(ctx) -> None:
    batch = latent(4)
    for place in range(4):
        row = LatentFromBatch(samples=batch, batch_index=place).run(ctx)
        assert torch.equal(row.samples, batch.samples[place : place + 1])
        assert row.batch_index == (place,)


def test_rows_of_rows_are_rows_of_the_first_batch(ctx) -> None:
    part = LatentFromBatch(samples=latent(6, masks=6), batch_index=2, length=3).run(ctx)
    row = LatentFromBatch(samples=part, batch_index=1).run(ctx)
    once = LatentFromBatch(samples=latent(6, masks=6), batch_index=3).run(ctx)
    assert row.batch_index == once.batch_index == (3,)
    assert torch.equal(row.samples, once.samples)
    assert row.noise_mask is not None
    assert once.noise_mask is not None
    assert torch.equal(row.noise_mask, once.noise_mask)


def test_rows_beyond_the_end_are_the_last_ones(ctx) -> None:
    batch = latent(3)
    last = LatentFromBatch(samples=batch, batch_index=9, length=9).run(ctx)
    assert last.batch_index == (2,)
    assert torch.equal(last.samples, batch.samples[2:])


def test_a_single_mask_goes_with_every_row_and_few_masks_take_turns(ctx) -> None:
    one = latent(4, masks=1)
    assert LatentFromBatch(samples=one, batch_index=3).run(ctx).noise_mask is one.noise_mask
    two = latent(4, masks=2)
    third = LatentFromBatch(samples=two, batch_index=2).run(ctx)
    assert two.noise_mask is not None
    assert third.noise_mask is not None
    assert torch.equal(third.noise_mask, two.noise_mask[:1])


def test_a_repeated_batch_goes_round_and_its_noise_goes_on(ctx) -> None:
    batch = latent(2, masks=2, index=(3, 5))
    repeated = RepeatLatentBatch(samples=batch, amount=3).run(ctx)
    assert torch.equal(repeated.samples, torch.cat([batch.samples] * 3))
    assert repeated.batch_index == (3, 5, 6, 8, 9, 11)
    assert batch.noise_mask is not None
    assert repeated.noise_mask is not None
    assert torch.equal(repeated.noise_mask, torch.cat([batch.noise_mask] * 3))


def test_a_batch_whose_noise_begins_at_the_start_stays_one_when_repeated(ctx) -> None:
    assert RepeatLatentBatch(samples=latent(2), amount=2).run(ctx).batch_index is None


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


# -- compositing -------------------------------------------------------------------------------


def composited(ctx: Context, **inputs: int) -> torch.Tensor:
    """Ones of 3 × 4 latent pixels on zeros of 8 × 8: the weights of what was pasted."""
    node = LatentComposite(
        samples_to=Latent(torch.zeros(1, 4, 8, 8)),
        samples_from=Latent(torch.ones(1, 4, 3, 4)),
        **inputs,
    )
    return node.run(ctx).samples[0, 0]


def test_pasting_replaces_a_rectangle_and_cuts_at_the_border(ctx) -> None:
    expected = torch.zeros(8, 8)
    expected[2:5, 1:5] = 1
    assert torch.equal(composited(ctx, x=8, y=16), expected)
    expected = torch.zeros(8, 8)
    expected[6:, 5:] = 1
    assert torch.equal(composited(ctx, x=40, y=48), expected)


def test_pasting_outside_changes_nothing(ctx) -> None:
    assert not composited(ctx, x=64, y=8).any()


def test_feathered_edges_fade_in_but_not_at_the_border(ctx) -> None:
    pasted = composited(ctx, x=0, y=40, feather=16)  # touches the left and the lower border
    expected = torch.tensor([[0.5], [1.0], [1.0]]) * torch.tensor([[1.0, 1.0, 1.0, 0.5]])
    torch.testing.assert_close(pasted[5:, :4], expected)


def test_edges_that_face_each_other_multiply(ctx) -> None:
    pasted = composited(ctx, x=16, y=16, feather=16)
    down, across = torch.tensor([0.5, 1.0, 0.5]), torch.tensor([0.5, 1.0, 1.0, 0.5])
    torch.testing.assert_close(pasted[2:5, 2:6], down[:, None] * across)


def test_one_latent_is_pasted_into_all_and_other_numbers_are_refused(ctx) -> None:
    onto = latent(3)
    one = LatentComposite(samples_to=onto, samples_from=latent(1, seed=5)).run(ctx)
    assert torch.equal(one.samples, latent(1, seed=5).samples.expand(3, -1, -1, -1))
    with pytest.raises(InputError, match="holds 2 latents"):
        LatentComposite(samples_to=onto, samples_from=latent(2)).run(ctx)


# -- files -------------------------------------------------------------------------------------


def test_a_saved_latent_loads_as_it_was(tmp_path: Path) -> None:
    workspace = Workspace(Settings(base_directory=tmp_path, device="cpu"))
    ctx = workspace.context({"1": {"class_type": "EmptyLatent"}}, {"workflow": {"nodes": []}})
    before = latent(2)
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
    assert list(VAEEncodeForInpaint.inputs()) == ["pixels", "vae", "mask", "grow_mask_by"]
    assert list(LatentUpscale.inputs()) == [
        *("samples", "upscale_method", "width", "height", "crop")
    ]
    assert list(LatentComposite.inputs()) == [*("samples_to", "samples_from", "x", "y", "feather")]
    sides = EmptyLatent.inputs()
    assert [(i.default, i.at_least, i.at_most, i.step) for i in sides.values()] == [
        (512, 16, 16384, 8),
        (512, 16, 16384, 8),
        (1, 1, 4096, None),
    ]
