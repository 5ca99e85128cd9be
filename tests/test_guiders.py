"""Guiders: what each side's estimate counts, and which sides are asked."""

from typing import Any

import pytest
import torch
from torch import Tensor
from toy_model import ToyModel, drive, prompt

from executor.ports import Area, Canvas, Cond
from executor.sampling.guiders import BasicGuider, CfgGuider, DualCfgGuider
from executor.sampling_ports import Estimate, Guidance

SIGMAS = torch.tensor([14.0, 6.0, 2.0, 0.5, 0.0])
HERE = torch.tensor(2.0)
X = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)) * 2


def says(mean: float) -> Tensor:
    """What the toy model says about one prompt alone."""
    return mean + (X - mean) / (1 + 2.0**2)


def estimated(guider: Guidance, *, uses_unguided: bool = False) -> Estimate:
    canvas = Canvas(torch.zeros_like(X))
    denoiser = guider.denoiser(canvas, SIGMAS, uses_unguided=uses_unguided)
    return drive(denoiser.both(X, HERE))


def dual(model: Any, cfg_first: float, cfg_second: float, **more: Any) -> DualCfgGuider:
    first, second, negative = ((prompt(mean),) for mean in (1.0, 0.5, -1.0))
    return DualCfgGuider(model, first, second, negative, cfg_first, cfg_second, **more)


@pytest.mark.parametrize(
    ("cfg", "uses_unguided", "rows"), [(1, False, 1), (1, True, 2), (3, False, 2)]
)
def test_the_negative_side_is_asked_where_it_counts(cfg: float, uses_unguided: bool, rows: int):
    model = ToyModel()
    guider = CfgGuider(model, (prompt(1.0),), (prompt(-1.0),), cfg)
    estimate = estimated(guider, uses_unguided=uses_unguided)
    assert model.shapes == [(rows, 4, 16, 16)]
    torch.testing.assert_close(estimate.guided, says(-1) + cfg * (says(1) - says(-1)))
    torch.testing.assert_close(estimate.unguided, says(-1.0 if rows == 2 else 1.0))


def test_one_prompt_alone_is_its_own_unguided_estimate():
    model = ToyModel()
    estimate = estimated(BasicGuider(model, (prompt(1.0),)), uses_unguided=True)
    assert model.shapes == [(1, 4, 16, 16)]
    assert estimate.unguided is estimate.guided
    assert torch.equal(estimate.guided, says(1))


def test_two_scales_lead_from_the_third_to_the_second_and_from_there_to_the_first():
    model = ToyModel()
    estimate = estimated(dual(model, 3.0, 2.0))
    assert model.shapes == [(3, 4, 16, 16)]  # all in one request
    inner = says(-1) + 2 * (says(0.5) - says(-1))
    torch.testing.assert_close(estimate.guided, inner + 3 * (says(1) - says(0.5)))
    torch.testing.assert_close(estimate.unguided, says(-1))


def test_nested_scales_lead_from_the_third_to_where_the_first_two_lead():
    model = ToyModel()
    estimate = estimated(dual(model, 3.0, 2.0, is_nested=True))
    inner = says(0.5) + 3 * (says(1) - says(0.5))
    torch.testing.assert_close(estimate.guided, says(-1) + 2 * (inner - says(-1)))
    torch.testing.assert_close(estimate.unguided, says(0.5))


@pytest.mark.parametrize(
    ("first", "second", "rows"), [(1.0, 1.0, 1), (3.0, 1.0, 2), (1.0, 3.0, 3), (3.0, 2.0, 3)]
)
def test_sides_that_would_count_for_nothing_are_not_asked(first: float, second: float, rows: int):
    asked, all_asked = ToyModel(), ToyModel()
    spared = estimated(dual(asked, first, second))
    whole = estimated(dual(all_asked, first, second), uses_unguided=True)
    assert asked.shapes == [(rows, 4, 16, 16)]
    assert all_asked.shapes == [(3, 4, 16, 16)]
    # 1e-5: what is not asked cancels up to rounding.
    torch.testing.assert_close(spared.guided, whole.guided, rtol=0, atol=1e-5)


def test_all_three_sides_borrow_prompts_for_each_others_areas():
    model = ToyModel()
    area = Area(8, 8, 0, 0)
    here: tuple[Cond, ...] = (prompt(1.0), prompt(2.0, area=area))
    guider = DualCfgGuider(model, here, (prompt(0.5),), (prompt(-1.0),), 3.0, 2.0)
    estimated(guider)
    # Three of the whole, and one of the corner for each side.
    assert sorted(model.shapes) == [(3, 4, 8, 8), (3, 4, 16, 16)]


def test_progress_counts_steps_of_runs_that_fall_and_of_runs_that_rise():
    guider = BasicGuider(ToyModel(), (prompt(1.0),))
    for sigmas in (SIGMAS, SIGMAS.flip(0)):
        denoiser = guider.denoiser(Canvas(X), sigmas, uses_unguided=False)
        steps = [next(denoiser(X, sigma)).step for sigma in sigmas[:-1]]
        assert steps == [0, 1, 2, 3]
