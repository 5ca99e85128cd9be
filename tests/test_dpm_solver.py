"""DPM-Solver with steps of its own: how many, how long, and when there is none to take."""

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sampler_toys import SHAPE, one_blob, run, start, two_blobs, watched
from torch import Tensor

from executor.errors import InputError
from executor.sampling.dpm_solver import dpm_adaptive, dpm_fast

RANGE = torch.tensor([12.0, 0.1, 0.0], dtype=torch.float64)


def error(result: Tensor) -> float:
    exact = start(RANGE) * ((1 + RANGE[1] ** 2) / (1 + RANGE[0] ** 2)).sqrt()
    return float((result - exact).abs().max())


def falling(steps: int) -> Tensor:
    """Any sigmas from 12 to 0.1, and 0: only the ends and their number count."""
    return torch.cat([torch.linspace(12.0, 0.1, steps, dtype=torch.float64), RANGE[2:]])


@pytest.mark.parametrize(
    ("steps", "orders"), [(2, [2]), (3, [2, 1]), (4, [3, 1]), (5, [3, 2]), (9, [3, 3, 2, 1])]
)
def test_the_fast_one_spends_its_evaluations_on_third_orders_even_in_lambda(
    steps: int, orders: list[int]
):
    seen: list[float] = []
    run(dpm_fast, falling(steps), watched(two_blobs, seen))
    assert len(seen) == steps == sum(orders)
    begins = np.cumsum([0, *orders[:-1]])
    expected = 12 * (0.1 / 12) ** (np.arange(len(orders)) / len(orders))
    np.testing.assert_allclose(np.array(seen)[begins], expected, rtol=1e-6)


def test_the_fast_one_is_of_third_order_but_for_its_last_step():
    errors = [error(run(dpm_fast, falling(steps), one_blob)[0]) for steps in (32, 62, 122)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("sample", [dpm_fast, dpm_adaptive])
def test_runs_end_at_the_least_positive_sigma(sample: Any):
    whole, _ = run(sample, RANGE)
    part, _ = run(sample, RANGE[:2])
    if sample is dpm_adaptive:
        assert torch.equal(whole, part)
    else:  # the 0 is one evaluation more
        assert run(sample, RANGE)[1] == 2
        assert run(sample, RANGE[:2])[1] == 1


@pytest.mark.parametrize("sample", [dpm_fast, dpm_adaptive])
def test_a_single_step_to_zero_has_no_way_to_go(sample: Any):
    sigmas = torch.tensor([5.0, 0.0], dtype=torch.float64)
    result, _ = run(sample, sigmas)
    torch.testing.assert_close(result, start(sigmas))


@pytest.mark.parametrize("order", [2, 3])
def test_the_adaptive_one_keeps_to_its_tolerance_and_pays_for_it(order: int):
    counts: list[int] = []
    for tolerance in (1e-2, 1e-3, 1e-4):
        sample = partial(dpm_adaptive, order=order, rtol=tolerance, atol=tolerance)
        result, count = run(sample, RANGE, one_blob)
        assert count % order == 0
        assert error(result) < 10 * tolerance  # of values up to 4, over some tens of steps
        counts.append(count)
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_the_adaptive_one_makes_a_step_again_that_was_too_long():
    """A first step of half the way is far too long for two blobs: it starts again, shorter."""
    seen: list[float] = []
    sample = partial(dpm_adaptive, h_init=2.5, rtol=1e-3, atol=1e-3)
    result, _ = run(sample, RANGE, watched(two_blobs, seen))
    assert sum(math.isclose(sigma, 12.0) for sigma in seen) > 1
    slow, _ = run(partial(dpm_adaptive, h_init=0.01, rtol=1e-3, atol=1e-3), RANGE)
    # 2e-2: twenty times the tolerance, which is for a step.
    torch.testing.assert_close(result, slow, rtol=0, atol=2e-2)


def test_the_adaptive_one_goes_up_too():
    down, _ = run(partial(dpm_adaptive, rtol=1e-4, atol=1e-4), RANGE[:2], one_blob)
    up, _ = run(partial(dpm_adaptive, rtol=1e-4, atol=1e-4), RANGE[:2].flip(0), one_blob, x=down)
    torch.testing.assert_close(up, start(RANGE), rtol=2e-2, atol=2e-2)
    with pytest.raises(InputError, match="set eta to 0"):
        run(partial(dpm_adaptive, eta=1.0), RANGE[:2].flip(0))


@pytest.mark.parametrize(
    "options",
    [{"h_init": 0.0}, {"rtol": 0.0, "atol": 0.0}, {"accept_safety": 100.0}],
)
def test_what_leaves_no_step_to_take_is_refused_and_does_not_go_on_for_ever(
    options: dict[str, float],
):
    with pytest.raises(InputError, match="finds no step to take at sigma 12: rtol"):
        run(partial(dpm_adaptive, **options), RANGE)


def test_a_model_that_fails_fails_the_picture_and_not_the_run():
    result, count = run(dpm_adaptive, RANGE, lambda x, sigma: x * torch.nan)
    assert result.isnan().all()
    assert count == 3


def test_the_adaptive_ones_noise_is_asked_for_where_a_step_is_kept():
    asked: list[tuple[float, float]] = []

    def noted(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        asked.append((float(sigma), float(sigma_next)))
        return torch.zeros(SHAPE)

    _, count = run(partial(dpm_adaptive, eta=1.0), RANGE, two_blobs, noted)
    assert asked[0][0] == pytest.approx(12)
    assert asked[-1][1] == pytest.approx(0.1)
    assert all(before[1] == pytest.approx(after[0]) for before, after in pairwise(asked))
    assert len(asked) <= count / 3
