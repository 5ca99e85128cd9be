"""Nodes that take batches apart and put them together."""

import pytest
import torch
from laws import check_pure, latent, noise
from pydantic import ValidationError

from executor import Context, InputError, Latent, Node
from nodes.batch import (
    ImageBatch,
    ImageFromBatch,
    LatentBatch,
    LatentBatchSeedBehavior,
    LatentFromBatch,
    RepeatImageBatch,
    RepeatLatentBatch,
)


@pytest.mark.parametrize(
    "node",
    [
        ImageBatch(image1=noise(1, 6, 4, 3), image2=noise(2, 3, 5, 4)),
        ImageFromBatch(image=noise(3, 6, 4, 3), batch_index=1),
        RepeatImageBatch(image=noise(1, 6, 4, 3), amount=2),
        LatentFromBatch(samples=latent(3, masks=2), batch_index=1, length=2),
        RepeatLatentBatch(samples=latent(3, masks=2, index=(4, 5, 6)), amount=2),
        LatentBatch(samples1=latent(1), samples2=Latent(noise(2, 4, 5, 5))),
        LatentBatchSeedBehavior(samples=latent(3)),
    ],
    ids=lambda node: type(node).__name__,
)
def test_inputs_are_left_alone_and_give_the_same_again(node: Node, ctx: Context) -> None:
    check_pure(node, ctx)


# -- pictures --------------------------------------------------------------------------------------


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


def test_pictures_are_taken_from_a_batch_and_the_last_where_there_are_no_more(
    ctx: Context,
) -> None:
    image = noise(4, 2, 3, 3)
    assert torch.equal(ImageFromBatch(image=image).run(ctx), image[:1])
    middle = ImageFromBatch(image=image, batch_index=1, length=2).run(ctx)
    assert torch.equal(middle, image[1:3])
    beyond = ImageFromBatch(image=image, batch_index=9, length=9).run(ctx)
    assert torch.equal(beyond, image[3:])


def test_a_repeated_batch_of_pictures_goes_round(ctx: Context) -> None:
    image = noise(2, 2, 3, 3)
    assert torch.equal(RepeatImageBatch(image=image, amount=3).run(ctx), torch.cat([image] * 3))


# -- latents ---------------------------------------------------------------------------------------


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


def test_two_batches_become_one_and_noise_keeps_its_places(ctx: Context) -> None:
    first, second = latent(2), latent(2, seed=5, index=(7, 3))
    both = LatentBatch(samples1=first, samples2=second).run(ctx)
    assert torch.equal(both.samples, torch.cat([first.samples, second.samples]))
    assert both.batch_index == (0, 1, 7, 3)
    for place in range(4):  # and so each row is sampled as it was alone
        row = LatentFromBatch(samples=both, batch_index=place).run(ctx)
        assert row.batch_index == ((0, 1, 7, 3)[place],)


def test_the_second_batch_takes_the_size_of_the_first(ctx: Context) -> None:
    second = Latent(torch.full((1, 4, 3, 9), 0.5))
    both = LatentBatch(samples1=latent(1), samples2=second).run(ctx)
    torch.testing.assert_close(both.samples[1], torch.full((4, 8, 6), 0.5))
    with pytest.raises(InputError, match="latents of 16 and of 4 channels"):
        LatentBatch(samples1=latent(1), samples2=Latent(noise(1, 16, 8, 6))).run(ctx)


def test_a_batch_gets_the_noise_of_its_first_or_of_each(ctx: Context) -> None:
    before = latent(3, masks=1, index=(4, 5, 6))
    fixed = LatentBatchSeedBehavior(samples=before).run(ctx)
    assert fixed.batch_index == (4, 4, 4)
    assert fixed.noise_mask is before.noise_mask
    assert LatentBatchSeedBehavior(samples=latent(2)).run(ctx).batch_index == (0, 0)
    spread = LatentBatchSeedBehavior(samples=fixed, seed_behavior="random").run(ctx)
    assert spread.batch_index is None


def test_ranges_are_comfyuis() -> None:
    for node, name, value in (
        (ImageFromBatch, "batch_index", 4096),
        (ImageFromBatch, "length", 0),
        (RepeatImageBatch, "amount", 4097),
    ):
        with pytest.raises(ValidationError, match=name):
            node.model_validate({"image": noise(1, 4, 4, 3), name: value})
