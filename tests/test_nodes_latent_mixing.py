"""Nodes that make one latent of two."""

import pytest
import torch
from laws import check_pure, latent, noise
from pydantic import ValidationError

from executor import Context, InputError, Latent, Node
from nodes.latent_mixing import (
    LatentAdd,
    LatentBlend,
    LatentComposite,
    LatentCompositeMasked,
    LatentInterpolate,
    LatentMultiply,
    LatentSubtract,
)


@pytest.mark.parametrize(
    "node",
    [
        LatentComposite(samples_to=latent(), samples_from=latent(seed=9), x=16, y=8, feather=16),
        LatentCompositeMasked(
            destination=latent(), source=latent(1, seed=9), x=8, y=8, mask=noise(1, 5, 5)
        ),
        LatentBlend(samples1=latent(), samples2=latent(seed=9)),
        LatentAdd(samples1=latent(), samples2=Latent(noise(1, 4, 3, 3))),
        LatentSubtract(samples1=latent(), samples2=latent(seed=9)),
        LatentMultiply(samples=latent(), multiplier=-2),
        LatentInterpolate(samples1=latent(), samples2=latent(seed=9), ratio=0.3),
    ],
    ids=lambda node: type(node).__name__,
)
def test_inputs_are_left_alone_and_give_the_same_again(node: Node, ctx: Context) -> None:
    check_pure(node, ctx)


# -- sums and mixtures -------------------------------------------------------------------------


def test_what_is_added_can_be_taken_away(ctx: Context) -> None:
    first, second = latent(masks=1, index=(3, 4)), latent(seed=9)
    both = LatentAdd(samples1=first, samples2=second).run(ctx)
    torch.testing.assert_close(both.samples, first.samples + second.samples)
    assert (both.noise_mask, both.batch_index) == (first.noise_mask, (3, 4))
    back = LatentSubtract(samples1=both, samples2=second).run(ctx)
    torch.testing.assert_close(back.samples, first.samples)


def test_multiplying_is_adding_again(ctx: Context) -> None:
    twice = LatentMultiply(samples=latent(), multiplier=2).run(ctx)
    assert torch.equal(
        twice.samples, LatentAdd(samples1=latent(), samples2=latent()).run(ctx).samples
    )


def test_the_second_takes_size_and_number_of_the_first(ctx: Context) -> None:
    first, second = latent(3), Latent(torch.full((2, 4, 5, 5), 0.5))
    both = LatentAdd(samples1=first, samples2=second).run(ctx)
    torch.testing.assert_close(both.samples, first.samples + 0.5)
    fewer = LatentSubtract(samples1=latent(1), samples2=latent(3, seed=9)).run(ctx)
    torch.testing.assert_close(fewer.samples, latent(1).samples - latent(3, seed=9).samples[:1])


def test_latents_of_another_kind_are_refused(ctx: Context) -> None:
    other = Latent(noise(1, 16, 8, 6))
    for node in (
        LatentAdd(samples1=latent(), samples2=other),
        LatentBlend(samples1=latent(), samples2=other),
        LatentCompositeMasked(destination=latent(), source=other),
        LatentComposite(samples_to=latent(), samples_from=other),
    ):
        with pytest.raises(InputError, match="same kind of VAE"):
            node.run(ctx)


def test_a_blend_is_so_much_of_the_first(ctx: Context) -> None:
    first, second = latent(1), latent(2, seed=9)
    mixed = LatentBlend(samples1=first, samples2=second, blend_factor=0.75).run(ctx)
    torch.testing.assert_close(mixed.samples, 0.75 * first.samples + 0.25 * second.samples)


def test_directions_and_lengths_are_interpolated_apart(ctx: Context) -> None:
    first, second = torch.zeros(1, 4, 1, 2), torch.zeros(1, 4, 1, 2)
    first[0, 0], second[0, 1] = 2.0, 4.0
    second[..., 1] = 0  # and a latent pixel that has no direction
    mixed = LatentInterpolate(samples1=Latent(first), samples2=Latent(second), ratio=0.5).run(ctx)
    # Halfway between two axes, of length (2 + 4) / 2; beside nothing, the first at half its length.
    torch.testing.assert_close(
        mixed.samples[0, :, 0], torch.tensor([[3 / 2**0.5, 1], [3 / 2**0.5, 0], [0, 0], [0, 0]])
    )


@pytest.mark.parametrize("node", [LatentInterpolate, LatentBlend])
def test_a_share_of_1_is_the_first_and_of_0_the_second(ctx: Context, node: type[Node]) -> None:
    name = "ratio" if node is LatentInterpolate else "blend_factor"
    for share, expected in ((1, latent()), (0, latent(seed=9))):
        mixed = node.model_validate(
            {"samples1": latent(), "samples2": latent(seed=9), name: share}
        ).run(ctx)
        torch.testing.assert_close(mixed.samples, expected.samples)


# -- pasting -----------------------------------------------------------------------------------


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


def test_a_mask_lets_a_latent_show_in_part(ctx: Context) -> None:
    destination, source = Latent(torch.zeros(2, 4, 8, 6)), Latent(torch.ones(1, 4, 4, 4))
    mask = noise(1, 4, 4)
    pasted = LatentCompositeMasked(
        destination=destination, source=source, x=16, y=8, mask=mask
    ).run(ctx)
    expected = torch.zeros(2, 4, 8, 6)
    expected[:, :, 1:5, 2:] = mask
    assert torch.equal(pasted.samples, expected)


def test_a_source_without_a_mask_covers_and_may_be_resized(ctx: Context) -> None:
    node = LatentCompositeMasked(
        destination=latent(), source=Latent(torch.ones(1, 4, 2, 2)), resize_source=True
    )
    assert (node.run(ctx).samples == 1).all()


def test_ranges_are_comfyuis() -> None:
    pair = {"samples1": latent(), "samples2": latent()}
    for node, given, name, value in (
        (LatentMultiply, {"samples": latent()}, "multiplier", 10.5),
        (LatentInterpolate, pair, "ratio", 1.01),
        (LatentBlend, pair, "blend_factor", -0.01),
    ):
        with pytest.raises(ValidationError, match=name):
            node.model_validate({**given, name: value})
