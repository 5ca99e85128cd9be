"""What U-Nets are given beside latent and prompt: as ComfyUI gives it where nobody says."""

import pytest
import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor

from executor.errors import InputError
from executor.models.further_inputs import edited_picture, masked_picture, vector
from executor.ports import Canvas, Cond, PictureSize
from executor.testing import family

SIZES, SCORE = family("sdxl"), family("sdxl-refiner")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt(rows: int = 1, **more) -> Cond:
    return Cond(drawn(rows, 77, 8), drawn(rows, 5), **more)


def spread_out(numbers: list[float]) -> Tensor:
    """As diffusers spreads SDXL's time_ids."""
    embed = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
    return embed(torch.tensor(numbers)).reshape(-1)


CANVAS = Canvas(drawn(2, 4, 8, 12))  # a picture of 64 × 96 pixels


@pytest.mark.parametrize("is_negative", [False, True])
def test_sdxl_is_told_the_size_of_the_picture_being_made(is_negative: bool) -> None:
    found = vector(prompt(), SIZES, CANVAS, is_negative=is_negative)
    assert found.shape == (2, 5 + 6 * 256)
    assert torch.equal(found[:, :5], drawn(1, 5).repeat(2, 1))
    torch.testing.assert_close(found[1, 5:], spread_out([64, 96, 0, 0, 64, 96]))


def test_sdxl_is_told_the_sizes_of_the_prompt() -> None:
    size = PictureSize(1024, 512, crop_y=8, crop_x=16, target_height=768, target_width=640)
    found = vector(prompt(size=size), SIZES, CANVAS, is_negative=False)
    torch.testing.assert_close(found[0, 5:], spread_out([1024, 512, 8, 16, 768, 640]))
    untargeted = vector(prompt(size=PictureSize(32, 24)), SIZES, CANVAS, is_negative=False)
    torch.testing.assert_close(untargeted[0, 5:], spread_out([32, 24, 0, 0, 32, 24]))


def test_the_refiner_is_told_a_score_and_a_lower_one_for_what_to_avoid() -> None:
    for cond, is_negative, score in (
        (prompt(), False, 6.0),
        (prompt(), True, 2.5),
        (prompt(aesthetic_score=4.5), False, 4.5),
        (prompt(aesthetic_score=4.5), True, 4.5),
    ):
        found = vector(cond, SCORE, CANVAS, is_negative=is_negative)
        assert found.shape == (2, 5 + 5 * 256)
        torch.testing.assert_close(found[0, 5:], spread_out([64, 96, 0, 0, score]))


def test_a_prompt_without_pooled_output_is_refused() -> None:
    with pytest.raises(InputError, match="no pooled output, which SDXL needs"):
        vector(Cond(drawn(1, 77, 8)), SIZES, CANVAS, is_negative=False)


def test_without_any_mask_all_is_to_be_painted_on_grey() -> None:
    found = masked_picture(prompt(concat=drawn(1, 4, 8, 12)), 0.5, CANVAS)
    assert found.shape == (2, 5, 8, 12)
    assert torch.equal(found[:, 0], torch.ones(2, 8, 12))
    assert found[1, 1:, 3, 3].tolist() == pytest.approx([0.8223, -0.6876, 0.6364, 0.1380])


def test_the_latents_own_mask_is_rounded_and_the_latent_is_the_picture() -> None:
    mask = torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(1))
    found = masked_picture(prompt(), 0.5, Canvas(CANVAS.clean, mask))
    assert torch.equal(found[:, :1], mask.round())
    assert torch.equal(found[:, 1:], CANVAS.clean)


def test_a_prompts_picture_and_mask_come_before_the_latents() -> None:
    mask = torch.zeros(1, 64, 96)
    mask[:, :, 48:] = 1
    cond = prompt(concat=drawn(1, 4, 8, 12, seed=2), concat_mask=mask)
    found = masked_picture(cond, 0.5, Canvas(CANVAS.clean, torch.ones(2, 1, 8, 12)))
    assert torch.equal(found[:, 1:], (0.5 * drawn(1, 4, 8, 12, seed=2)).repeat(2, 1, 1, 1))
    assert torch.equal(found[1, 0, 0], torch.tensor([0.0] * 6 + [1.0] * 6))


def test_a_picture_of_other_sides_is_cut_to_the_middle_and_resized() -> None:
    wide = torch.arange(24.0).repeat(1, 4, 4, 1)  # (1, 4, 4, 24): six times as wide as high
    found = edited_picture(prompt(concat=wide), 1.0, Canvas(torch.zeros(1, 4, 8, 16)))
    # twice as wide as high is 8 of its 24 columns, from 8 to 15, enlarged twice
    assert found.shape == (1, 4, 8, 16)
    assert float(found.min()) == 8
    assert float(found.max()) == 15
    torch.testing.assert_close(found[0, 0, 0, 1:15], torch.arange(8.25, 15.1, 0.5))
    high = wide.movedim(-1, -2)
    turned = edited_picture(prompt(concat=high), 1.0, Canvas(torch.zeros(1, 4, 16, 8)))
    assert torch.equal(turned, found.movedim(-1, -2))


def test_pictures_of_other_batches_are_spread_over_the_rows() -> None:
    # as ComfyUI does it: each next to itself, or some from the first to the last
    def places(given: int, rows: int) -> list[float]:
        concat = torch.arange(float(given))[:, None, None, None].repeat(1, 4, 2, 2)
        found = edited_picture(prompt(concat=concat), 1.0, Canvas(torch.zeros(rows, 4, 2, 2)))
        return found[:, 0, 0, 0].tolist()

    assert places(1, 3) == [0, 0, 0]
    assert places(2, 4) == [0, 0, 1, 1]
    assert places(2, 5) == [0, 0, 1, 1, 1]
    assert places(5, 3) == [0, 2, 4]
    assert places(3, 1) == [0]


def test_the_edited_picture_is_as_the_vae_gives_it_and_nothing_without_one() -> None:
    concat = drawn(1, 4, 8, 12, seed=5)
    assert torch.equal(edited_picture(prompt(concat=concat), 1.0, CANVAS)[1], concat[0])
    assert not edited_picture(prompt(), 1.0, CANVAS).any()
    assert edited_picture(prompt(), 1.0, CANVAS).shape == CANVAS.clean.shape
