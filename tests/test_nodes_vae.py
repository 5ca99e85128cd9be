"""Between pictures and latents: encoding, decoding, and what is encoded for inpainting."""

import pytest
import torch
from laws import check_pure, latent, noise

from executor import Context, InputError, Node, Tiling
from nodes.vae import (
    VAEDecode,
    VAEDecodeTiled,
    VAEEncode,
    VAEEncodeForInpaint,
    VAEEncodeTiled,
)


class Blocks:
    """An autoencoder that can be reckoned by hand: a latent pixel is the mean of 8 × 8 pixels."""

    def __init__(self) -> None:
        self.tilings: list[Tiling | None] = []

    def encode(self, pixels: torch.Tensor, tiling: Tiling | None = None) -> torch.Tensor:
        self.tilings.append(tiling)
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)

    def decode(self, samples: torch.Tensor, tiling: Tiling | None = None) -> torch.Tensor:
        self.tilings.append(tiling)
        large = samples.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return large[:, :3].movedim(1, -1)


@pytest.mark.parametrize(
    "node",
    [
        VAEEncode(pixels=noise(1, 17, 23, 3), vae=Blocks()),
        VAEEncodeForInpaint(
            pixels=noise(2, 24, 32, 3), vae=Blocks(), mask=noise(1, 24, 32), grow_mask_by=5
        ),
        VAEDecode(samples=latent(), vae=Blocks()),
        VAEDecodeTiled(samples=latent(), vae=Blocks()),
        VAEEncodeTiled(pixels=noise(1, 17, 23, 3), vae=Blocks()),
    ],
    ids=lambda node: type(node).__name__,
)
def test_inputs_are_left_alone_and_give_the_same_again(node: Node, ctx: Context) -> None:
    check_pure(node, ctx)


def test_encoding_crops_to_the_middle_and_leaves_alpha_out(ctx) -> None:
    pixels = noise(1, 19, 26, 4)
    encoded = VAEEncode(pixels=pixels, vae=Blocks()).run(ctx)
    torch.testing.assert_close(encoded.samples, Blocks().encode(pixels[:, 1:17, 1:25, :3]))


def test_decoding_gives_the_picture_of_the_latent(ctx) -> None:
    pixels = noise(1, 2, 3, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    encoded = VAEEncode(pixels=pixels, vae=Blocks()).run(ctx)
    torch.testing.assert_close(VAEDecode(samples=encoded, vae=Blocks()).run(ctx), pixels)


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


def test_tiles_are_those_that_are_asked_for(ctx: Context) -> None:
    vae = Blocks()
    decoded = VAEDecodeTiled(samples=latent(), vae=vae, tile_size=128, overlap=32).run(ctx)
    assert torch.equal(decoded, VAEDecode(samples=latent(), vae=vae).run(ctx))
    pixels = noise(1, 19, 26, 4)
    encoded = VAEEncodeTiled(pixels=pixels, vae=vae, tile_size=256).run(ctx)
    assert torch.equal(encoded.samples, VAEEncode(pixels=pixels, vae=vae).run(ctx).samples)
    assert vae.tilings == [Tiling(128, 32), None, Tiling(256, 64), None]


def test_tiles_to_decode_overlap_by_a_quarter_at_most(ctx: Context) -> None:
    vae = Blocks()
    VAEDecodeTiled(samples=latent(), vae=vae, tile_size=96, overlap=64).run(ctx)
    assert vae.tilings == [Tiling(96, 24)]


def test_input_names_order_and_defaults_are_comfyuis() -> None:
    assert list(VAEEncodeForInpaint.inputs()) == ["pixels", "vae", "mask", "grow_mask_by"]
    for node, first, step in ((VAEDecodeTiled, "samples", 32), (VAEEncodeTiled, "pixels", 64)):
        sizes = ["tile_size", "overlap", "temporal_size", "temporal_overlap"]
        assert list(node.inputs()) == [first, "vae", *sizes]
        assert [node.inputs()[name].default for name in sizes] == [512, 64, 64, 8]
        assert node.inputs()["tile_size"].step == step
