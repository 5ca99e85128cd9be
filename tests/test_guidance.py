"""Guidance: which prompts are evaluated where and when, and what they add up to."""

from typing import Any

import pytest
import torch
from torch import Tensor
from toy_model import ToyModel, drive, drive_together, prompt

from executor.errors import InputError
from executor.ports import Area, Canvas, Cond
from executor.sampling.guidance import guided, resized
from executor.steps import Eval

SIGMAS = torch.tensor([14.0, 6.0, 2.0, 0.5, 0.0])
HERE = torch.tensor(2.0)


def noisy(batch: int = 1, height: int = 16, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, height, width, generator=generator) * float(HERE)


def at(mean: float, x: Tensor, sigma: float = float(HERE)) -> Tensor:
    """What the toy model says about one prompt alone."""
    return mean + (x - mean) / (1 + sigma**2)


def denoised(
    positive: list[Cond],
    negative: list[Cond],
    *,
    cfg: float = 1.0,
    x: Tensor | None = None,
    sigma: Tensor = HERE,
    model: ToyModel | None = None,
) -> Tensor:
    x = noisy() if x is None else x
    denoise = guided(
        model or ToyModel(),
        positive,
        negative,
        cfg=cfg,
        canvas=Canvas(torch.zeros_like(x)),
        sigmas=SIGMAS,
    )
    return drive(denoise(x, sigma))


def box(height: int, width: int, y: int, x: int) -> Area:
    return Area(height=height, width=width, y=y, x=x)


# --- classifier-free guidance ------------------------------------------------------------------


def test_guidance_goes_from_the_negative_to_the_positive_and_beyond():
    x = noisy()
    result = denoised([prompt(1.0)], [prompt(-1.0)], cfg=3.0)
    torch.testing.assert_close(result, at(-1, x) + (at(1, x) - at(-1, x)) * 3)


def test_both_halves_stand_in_one_request():
    model = ToyModel()
    denoised([prompt(1.0)], [prompt(-1.0)], cfg=3.0, x=noisy(3), model=model)
    assert model.shapes == [(6, 4, 16, 16)]


def test_a_scale_of_1_evaluates_the_positive_alone():
    model = ToyModel()
    result = denoised([prompt(1.0)], [prompt(-1.0)], cfg=1.0, model=model)
    assert model.shapes == [(1, 4, 16, 16)]
    assert torch.equal(result, at(1, noisy()))


def test_prompts_of_different_lengths_share_a_request():
    model = ToyModel()
    long, short = prompt(1.0, length=6), prompt(-1.0, length=3)
    result = denoised([long], [short], cfg=2.0, model=model)
    assert len(model.shapes) == 1
    torch.testing.assert_close(result, denoised([prompt(1.0)], [prompt(-1.0)], cfg=2.0))


def test_one_prompt_serves_a_whole_batch_and_a_batch_of_prompts_its_own_rows():
    x = noisy(3)
    torch.testing.assert_close(denoised([prompt(1.0)], [], x=x), at(1, x))
    two = Cond(torch.cat([prompt(1.0).tokens, prompt(5.0).tokens]))
    result = denoised([two], [], x=x)
    for row, mean in enumerate((1, 5, 1)):
        torch.testing.assert_close(result[row], at(mean, x)[row])


def test_two_runs_in_one_batch_get_what_they_get_alone():
    model = ToyModel()
    runs: list[dict[str, Any]] = [
        {"positive": [prompt(1.0)], "negative": [prompt(-1.0)], "cfg": 3.0},
        {"positive": [prompt(2.0, length=6), prompt(0.0)], "negative": [prompt(5.0)], "cfg": 7.0},
    ]
    x = noisy()
    steps = [guided(model, **run, canvas=Canvas(x), sigmas=SIGMAS)(x, HERE) for run in runs]
    together = drive_together(steps)
    assert len(model.shapes) == 1
    for result, run in zip(together, runs, strict=True):
        torch.testing.assert_close(result, denoised(**run))  # elementwise, so exact up to one sum


# --- several prompts a side --------------------------------------------------------------------


def test_prompts_are_averaged_by_their_strengths():
    x = noisy()
    result = denoised([prompt(1.0, strength=1.0), prompt(4.0, strength=3.0)], [])
    torch.testing.assert_close(result, (at(1, x) + 3 * at(4, x)) / 4)


def test_the_strength_of_a_single_prompt_makes_no_difference():
    torch.testing.assert_close(denoised([prompt(1.0, strength=0.3)], []), at(1, noisy()))


def test_an_area_that_covers_everything_is_no_area():
    everywhere = prompt(1.0, area=box(16, 16, 0, 0))
    larger = prompt(1.0, area=box(99, 99, 0, 0))
    torch.testing.assert_close(denoised([everywhere], []), at(1, noisy()))
    torch.testing.assert_close(denoised([larger], []), at(1, noisy()))


def test_only_the_area_is_evaluated():
    model = ToyModel()
    result = denoised([prompt(1.0, area=box(8, 4, 2, 12))], [], model=model)
    assert model.shapes == [(1, 4, 8, 4)]
    torch.testing.assert_close(result[..., 2:10, 12:16], at(1, noisy())[..., 2:10, 12:16])
    assert result[..., :2, :].count_nonzero() == 0  # where no prompt holds there is nothing
    assert result[..., :12].count_nonzero() == 0


def test_an_area_fades_where_it_does_not_touch_the_border():
    """Its weight rises over 8 latent pixels, or a quarter of the area if that is less."""
    x = noisy(1, 40, 40)
    result = denoised([prompt(0.0), prompt(1.0, area=box(40, 20, 0, 20))], [], x=x)
    ramp = torch.tensor([1, 2, 3, 4, 5]) / 5  # 20 wide: a quarter is 5
    weight = torch.cat([torch.zeros(20), ramp, torch.ones(15)])
    torch.testing.assert_close(result, (at(0, x) + weight * at(1, x)) / (1 + weight))

    result = denoised([prompt(0.0), prompt(1.0, area=box(36, 40, 0, 0))], [], x=x)
    weight = torch.cat([torch.ones(28), torch.arange(8, 0, -1) / 8, torch.zeros(4)])[:, None]
    torch.testing.assert_close(result, (at(0, x) + weight * at(1, x)) / (1 + weight))


def test_areas_of_one_size_share_a_request_and_others_do_not():
    model = ToyModel()
    left, right = prompt(1.0, area=box(16, 8, 0, 0)), prompt(2.0, area=box(16, 8, 0, 8))
    denoised([left, right, prompt(3.0)], [], model=model)
    assert model.shapes == [(2, 4, 16, 8), (1, 4, 16, 16)]


def test_an_area_on_one_side_is_compared_with_the_same_area_on_the_other():
    model, x = ToyModel(), noisy()
    area = box(16, 8, 0, 0)
    result = denoised([prompt(1.0, area=area)], [prompt(-1.0)], cfg=3.0, model=model)
    assert sorted(model.shapes) == [(1, 4, 16, 16), (2, 4, 16, 8)]
    inside = at(-1, x) + (at(1, x) - at(-1, x)) * 3
    torch.testing.assert_close(result[..., :8], inside[..., :8])


def test_the_counterpart_of_an_area_is_the_smallest_that_holds_it():
    around = prompt(-1.0, area=box(16, 12, 0, 0))
    farther, elsewhere = prompt(-2.0), prompt(-3.0, area=box(16, 4, 0, 12))
    inner = prompt(1.0, area=box(8, 8, 0, 0), strength=1e6)  # outweighs all beside it there
    x = noisy()
    result = denoised([inner, prompt(0.0)], [farther, elsewhere, around], cfg=2.0)
    # Its counterpart has its strength, so it outweighs the rest of the negative side as well.
    # 1e-4: a millionth of the rest is left, times differences of up to 3.
    inside = at(-1, x) + (at(1, x) - at(-1, x)) * 2
    torch.testing.assert_close(result[..., :6, :6], inside[..., :6, :6], rtol=0, atol=1e-4)


def test_an_area_outside_the_picture_is_refused():
    with pytest.raises(InputError, match="x = 128, y = 0 pixels, outside the picture of 128 × 128"):
        denoised([prompt(1.0, area=box(4, 4, 0, 16))], [])


# --- masks -------------------------------------------------------------------------------------


def half() -> Tensor:
    mask = torch.zeros(1, 16, 16)
    mask[..., :8] = 1
    return mask


def test_a_mask_of_ones_is_no_mask():
    torch.testing.assert_close(
        denoised([prompt(1.0, mask=torch.ones(1, 16, 16))], []), at(1, noisy())
    )


def test_masks_share_the_picture_out():
    x = noisy()
    result = denoised([prompt(1.0, mask=half()), prompt(4.0, mask=1 - half())], [])
    torch.testing.assert_close(result[..., :8], at(1, x)[..., :8])
    torch.testing.assert_close(result[..., 8:], at(4, x)[..., 8:])


def test_a_mask_counts_by_its_values_and_its_strength():
    x = noisy()
    soft = prompt(4.0, mask=torch.full((1, 16, 16), 0.5), mask_strength=0.8, strength=2.0)
    result = denoised([prompt(1.0), soft], [])
    torch.testing.assert_close(result, (at(1, x) + 0.8 * at(4, x)) / 1.8)


def test_a_mask_of_any_size_is_brought_to_the_latent_bilinearly():
    gradient = torch.linspace(0, 1, 64).repeat(1, 64, 1)
    small = resized(gradient, 16, 16)
    assert small.shape == (1, 16, 16)
    assert (small.diff(dim=-1) > 0).all()
    torch.testing.assert_close(resized(half(), 16, 16), half())
    # A flat mask (H, W), as some nodes hand out.
    assert resized(half()[0], 8, 8).shape == (1, 8, 8)


def test_a_mask_for_each_row_of_the_batch():
    x = noisy(3)
    masks = torch.cat([half(), 1 - half()])
    result = denoised([prompt(1.0), prompt(4.0, mask=masks, strength=3.0)], [], x=x)
    for row, mask in enumerate((half(), 1 - half(), half())):
        expected = (at(1, x) + 3 * mask * at(4, x)) / (1 + 3 * mask)
        torch.testing.assert_close(result[row], expected[row])


def test_a_crop_to_the_mask_evaluates_its_bounding_box_alone():
    mask = torch.zeros(1, 32, 32)
    mask[0, 4:20, 10:13] = 1
    model, x = ToyModel(), noisy(1, 32, 32)
    cropped = prompt(1.0, mask=mask, is_cropped_to_mask=True)
    result = denoised([cropped], [], x=x, model=model)
    assert model.shapes == [(1, 4, 16, 8)]  # 3 wide, but never less than 8
    torch.testing.assert_close(result, at(1, x) * mask[:, None])
    assert denoised([prompt(1.0, mask=mask * 0, is_cropped_to_mask=True)], []).count_nonzero() == 0


# --- ranges ------------------------------------------------------------------------------------


def test_a_prompt_is_evaluated_only_while_it_holds():
    first, then = prompt(1.0, end_percent=0.4), prompt(4.0, start_percent=0.4)
    model = ToyModel()
    border = model.schedule.percent_to_sigma(0.4)
    for sigma, mean in ((14.0, 1), (border * 1.01, 1), (border * 0.99, 4), (0.1, 4)):
        model.shapes.clear()
        result = denoised([first, then], [], sigma=torch.tensor(sigma), model=model)
        assert len(model.shapes) == 1
        torch.testing.assert_close(result, at(mean, noisy(), sigma))


def test_where_no_prompt_holds_nothing_is_evaluated():
    model = ToyModel()
    late = prompt(1.0, start_percent=0.9)
    result = denoised([late], [late], cfg=3.0, sigma=torch.tensor(14.0), model=model)
    assert model.shapes == []
    assert result.count_nonzero() == 0


# --- progress ----------------------------------------------------------------------------------


def test_requests_say_how_far_the_run_is():
    x = noisy()
    denoise = guided(ToyModel(), [prompt(1.0)], [], cfg=1.0, canvas=Canvas(x), sigmas=SIGMAS)

    def position(sigma: float) -> tuple[int, int]:
        request: Eval = next(denoise(x, torch.tensor(sigma)))
        return request.step, request.steps

    assert [position(sigma) for sigma in (14.0, 6.0, 2.0, 0.5)] == [(i, 4) for i in range(4)]
    assert position(3.0) == (1, 4)  # between two, as samplers of second order ask
    assert position(99.0) == (0, 4)
