"""Pictures shown to the models that were trained to see them."""

import pytest
import torch
from laws import check_pure, noise
from torch import Tensor

from executor import Cond, Context, InputError, Node
from executor.ports import Tiling
from nodes.inpaint import InpaintModelConditioning, InstructPixToPixConditioning


class Blocks:
    """An autoencoder that can be reckoned by hand: a latent pixel is the mean of 8 × 8 pixels."""

    def encode(self, pixels: Tensor, tiling: Tiling | None = None) -> Tensor:
        height, width = (pixels.shape[side] % 8 // 2 for side in (1, 2))
        kept = (pixels.shape[side] // 8 * 8 for side in (1, 2))
        pixels = pixels[:, height : height + next(kept), width : width + next(kept)]
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)

    def decode(self, samples: Tensor, tiling: Tiling | None = None) -> Tensor:
        raise AssertionError("nothing here is decoded")


def prompts(*means: float) -> tuple[Cond, ...]:
    return tuple(Cond(torch.full((1, 77, 8), mean)) for mean in means)


def shown(cls, pixels: Tensor, **more) -> Node:
    return cls(positive=prompts(1, 2), negative=prompts(3), vae=Blocks(), pixels=pixels, **more)


@pytest.mark.parametrize(
    "node",
    [
        shown(InpaintModelConditioning, noise(1, 17, 26, 3), mask=noise(1, 9, 9)),
        shown(InstructPixToPixConditioning, noise(1, 17, 26, 3)),
    ],
    ids=lambda node: type(node).__name__,
)
def test_inputs_are_left_alone_and_give_the_same_again(node: Node, ctx: Context) -> None:
    check_pure(node, ctx)


def test_every_prompt_gets_the_picture_grey_under_the_mask(ctx: Context) -> None:
    pixels = noise(2, 16, 24, 3)
    mask = torch.zeros(1, 16, 24)
    mask[:, :8, 8:16] = 1
    positive, negative, latent = shown(InpaintModelConditioning, pixels, mask=mask).run(ctx)
    expected = Blocks().encode(pixels)
    expected[:, :, 0, 1] = 0.5
    assert [float(cond.tokens[0, 0, 0]) for cond in (*positive, *negative)] == [1, 2, 3]
    for cond in (*positive, *negative):
        torch.testing.assert_close(cond.concat, expected)
        assert torch.equal(cond.concat_mask, mask)
    torch.testing.assert_close(latent.samples, Blocks().encode(pixels))
    assert torch.equal(latent.noise_mask, mask)


def test_without_a_noise_mask_the_sampler_is_free_everywhere(ctx: Context) -> None:
    node = shown(
        InpaintModelConditioning, noise(1, 16, 16, 3), mask=torch.ones(1, 16, 16), noise_mask=False
    )
    positive, _, latent = node.run(ctx)
    assert latent.noise_mask is None
    assert positive[0].concat_mask is not None


def test_a_soft_mask_greys_where_it_is_above_a_half_and_stays_soft(ctx: Context) -> None:
    pixels, mask = noise(1, 8, 16, 3), torch.full((1, 8, 16), 0.4)
    mask[:, :, 8:] = 0.6
    positive, _, latent = shown(InpaintModelConditioning, pixels, mask=mask).run(ctx)
    expected = Blocks().encode(pixels)
    expected[..., 1] = 0.5
    torch.testing.assert_close(positive[0].concat, expected)
    assert torch.equal(latent.noise_mask, mask)


def test_sides_that_no_latent_has_are_cut_alike(ctx: Context) -> None:
    pixels, mask = noise(1, 19, 26, 3), torch.zeros(1, 19, 26)
    mask[:, :, 13:] = 1
    positive, _, latent = shown(InpaintModelConditioning, pixels, mask=mask).run(ctx)
    assert positive[0].concat is not None
    assert positive[0].concat.shape == latent.samples.shape == (1, 3, 2, 3)
    assert torch.equal(latent.noise_mask, mask[:, 1:17, 1:25])


def test_masks_for_other_pictures_are_refused(ctx: Context) -> None:
    node = shown(InpaintModelConditioning, noise(3, 16, 16, 3), mask=noise(2, 16, 16))
    with pytest.raises(InputError, match="2 masks for 3 pictures"):
        node.run(ctx)


def test_what_is_to_be_edited_is_beside_each_prompt_and_the_latent_empty(ctx: Context) -> None:
    pixels = noise(2, 16, 24, 3)
    positive, negative, latent = shown(InstructPixToPixConditioning, pixels).run(ctx)
    for cond in (*positive, *negative):
        torch.testing.assert_close(cond.concat, Blocks().encode(pixels))
        assert cond.concat_mask is None
    assert latent.samples.shape == (2, 3, 2, 3)
    assert not latent.samples.any()
